"""The part "model": whole networks before and after `swap_`, which must never be slower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.bench import ratio
from sparsekern.bench.cuda import interleave_cuda
from sparsekern.cli.gpu.contest import cells
from sparsekern.cli.gpu.drawn import Block, draw, draw_mask
from sparsekern.cli.gpu.setting import Entry, Setting, in_words, raised
from sparsekern.nn import swap_
from sparsekern.zoo import MODELS

SPARSITY, BLOCK = 0.9, (64, 64)
TIMING_S = 2.0
SLOWER = 0.99  # "never more than 1 % slower"
FAR = 0.03  # relative error of a network in bfloat16 that is no rounding any more


class Mlp(nn.Module):
    """The MLP of a vision transformer's block, with its norm and its residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        y: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return y


def _vit_mlp(setting: Setting) -> tuple[nn.Module, Tensor]:
    """Four blocks of ViT-H/14 with 16 images, or of something small."""
    width, tokens, blocks = (16, 20, 1) if setting.tiny else (1280, 16 * 257, 4)
    model = nn.Sequential(*(Mlp(width) for _ in range(blocks))).to(setting.device, torch.bfloat16)
    _mask(model, (16, 16) if setting.tiny else BLOCK)
    return model, draw(setting.device, tokens, width)


def _resnet20(setting: Setting) -> tuple[nn.Module, Tensor]:
    """Few channels: a network that has little to win."""
    model: Any = MODELS["resnet20"](None).to(setting.device, torch.bfloat16)
    model.to(memory_format=torch.channels_last)
    _mask(model, (64, 64) if setting.tiny else (16, 16))
    x = draw(setting.device, 2 if setting.tiny else 256, *model.image)
    return model, x.contiguous(memory_format=torch.channels_last)


NETWORKS: Mapping[str, Callable[[Setting], tuple[nn.Module, Tensor]]] = {
    "ViT-H/14 MLPs": _vit_mlp,
    "ResNet-20": _resnet20,
}


def _mask(model: nn.Module, block: Block) -> None:
    """Zeros in blocks at random places, in all layers that hold whole ones."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and min(layer.weight.shape[:2]) >= min(block):
            mask = draw_mask(layer.weight.device, layer.weight.shape, block, SPARSITY)
            with torch.no_grad():
                layer.weight.mul_(mask)


def run(setting: Setting) -> Iterator[Entry]:
    """An entry for each network: `swap_`'s report, and the time before and after it, with and without a
    graph."""
    for name, make in NETWORKS.items():
        about: Entry = {"network": name, "sparsity": SPARSITY}
        if setting.left_s <= 0:
            yield {**about, "skipped": "no time left"}
            continue
        try:
            yield about | _measure(setting, *make(setting))
        except raised() as error:
            yield {**about, "error": in_words(error)}


def _measure(setting: Setting, model: nn.Module, x: Tensor) -> Entry:
    dense = deepcopy(model.eval())
    report = swap_(model, x)
    calls = {"before": partial(dense, x), "after": partial(model, x)}
    with torch.no_grad():
        want, got = dense(x).double(), model(x).double()
        found: Entry = {"swap": report.to_json(), "error_rel": float((got - want).norm() / want.norm())}
        for how, eager in (("eager", ("before", "after")), ("graph", ())):
            budget_s = 0.01 if setting.tiny else TIMING_S
            times, refused = interleave_cuda(calls, budget_s=budget_s, eager=eager, clock=setting.clock)
            speedup = ratio(times["before"], times["after"])
            medians = {name: times[name].median_us for name in calls}
            found[how] = {**medians, "speedup": asdict(speedup), "uncaptured": refused}
            if speedup.value < SLOWER and speedup.high < 1 and not setting.tiny:
                found["error"] = f"{how}: {speedup}, slower after the swap"
    if found["error_rel"] > FAR:
        found["error"] = f"the output is {found['error_rel']:.1e} away from the dense network's"
    return found


def lines(entries: Sequence[Entry]) -> Iterator[str]:
    """A line for each network."""
    heads = ["network", "swapped", "before us", "after us", "times", "in a graph", "times", "error"]
    yield cells(heads)
    yield f"|{'---|' * len(heads)}"
    for entry in entries:
        if "swap" in entry:
            layers = entry["swap"]["layers"]
            swapped = sum(layer["decision"] == "swapped" for layer in layers)
            eager, graph = entry["eager"], entry["graph"]
            yield cells(
                [
                    entry["network"],
                    f"{swapped} of {len(layers)}",
                    f"{eager['before']:.1f}",
                    f"{eager['after']:.1f}",
                    f"{eager['speedup']['value']:.2f}",
                    f"{graph['after']:.1f}",
                    f"{graph['speedup']['value']:.2f}",
                    f"{entry['error_rel']:.1e}",
                ]
            )
    yield from (f"- {e['network']}: {e['error']}" for e in entries if "error" in e)
    yield from (f"- {e['network']}: {e['skipped']}" for e in entries if "skipped" in e)
