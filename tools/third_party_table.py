"""The table of docs/networks.md: networks of others, dense in every form against swapped, eager and compiled.

python tools/third_party_table.py --batch 1 32 --threads 1 2 --out docs/results/third_party.json
python tools/third_party_table.py --only overhead

Weights are random, and masked at random in whole blocks. One row is a network, a block, a batch and a number
of threads; its variants are timed interleaved. `compiled` is torch.compile of the dense network. Each row
also says how many layers stayed dense and why.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision_operators
from torch import nn

import sparsekern as sk
from sparsekern.bench import fold_norms, hardest, interleave, machine, ratio
from sparsekern.cli.bench.cases import random_mask
from sparsekern.kernels import cpu
from sparsekern.masks import fit_block, maskable

TOKENS = 128
Made = tuple[nn.Module, Callable[[int], Any]]


def torchvision_network(name: str) -> Made:
    from torchvision import models

    return getattr(models, name)(), lambda batch: torch.randn(batch, 3, 224, 224)


def timm_network(name: str) -> Made:
    import timm

    return timm.create_model(name), lambda batch: torch.randn(batch, 3, 224, 224)


def bert_base(_: str) -> Made:
    from transformers import BertConfig, BertModel

    def ids(batch: int) -> dict[str, Any]:
        return {"input_ids": torch.randint(30000, (batch, TOKENS))}

    return BertModel(BertConfig(), add_pooling_layer=False), ids


def bert_linears(_: str) -> Made:
    """The six kinds of products of one layer of BERT-base, without what lies between them."""
    widths = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]
    return nn.Sequential(*(nn.Linear(k, n) for k, n in widths)), lambda batch: torch.randn(batch, TOKENS, 768)


SOURCES = {"torchvision": torchvision_network, "timm": timm_network, "hf": bert_base, "linears": bert_linears}
CNNS = ("torchvision:resnet18", "torchvision:resnet50", "timm:convnext_atto")
NETWORKS = ("linears:bert-base", "hf:bert-base", *CNNS)


def masked_(model: nn.Module, sparsity: float, block: tuple[int, int]) -> nn.Module:
    """Zeros in random blocks; what is left grows, so that signals stay as large as they were."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in maskable(model).values():
            weight: Any = layer.weight
            weight *= random_mask(weight.shape, fit_block(block, weight.shape), sparsity, generator)
            weight /= (1 - sparsity) ** 0.5
    return model.eval()


def call(model: Any, inputs: Any) -> Any:
    output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return output if isinstance(output, torch.Tensor) else output[0]


def channels_last(model: nn.Module, inputs: Any) -> tuple[nn.Module, Any]:
    if isinstance(inputs, dict) or inputs.dim() != 4:
        return model, inputs
    kind = torch.channels_last
    return copy.deepcopy(model).to(memory_format=kind), inputs.contiguous(memory_format=kind)


def row(name: str, block: tuple[int, int], batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """All variants of one network on one batch."""
    source, _, about = name.partition(":")
    torch.manual_seed(0)
    model, draw = SOURCES[source](about)
    model, inputs = masked_(model, options.sparsity, block), draw(batch)
    dense, given = channels_last(model, inputs)
    swapped: Any = fold_norms(dense) if isinstance(given, torch.Tensor) else copy.deepcopy(dense)
    report = sk.swap_(swapped, given, block=None if block == (1, 1) else block)
    fused = sk.fuse_(swapped) if isinstance(given, torch.Tensor) else None
    forms = {
        "eager": (model, inputs),
        "eager_channels_last": (dense, given),
        "compiled": (torch.compile(model), inputs),
        "compiled_channels_last": (torch.compile(dense), given),
        "swapped": (swapped, given),
        "swapped_compiled": (torch.compile(swapped), given),
    }
    if dense is model:
        forms = {form: made for form, made in forms.items() if not form.endswith("channels_last")}
    want = call(copy.deepcopy(model).double(), {**inputs} if isinstance(inputs, dict) else inputs.double())
    errors = {}
    for form, made in forms.items():
        errors[form] = float((call(*made).double() - want).abs().max() / want.abs().max())
        if errors[form] > 1e-4:
            raise ValueError(f"{name}: {form} is off by {errors[form]:.1e} of its largest output")
    times = interleave({form: partial(call, *made) for form, made in forms.items()}, budget_s=options.budget)
    rivals = [form for form in times if not form.startswith("swapped")]
    ours = min(("swapped", "swapped_compiled"), key=lambda form: times[form].median_us)
    best, against_best = hardest(times, rivals, ours)
    eager = "eager" if dense is model else "eager_channels_last"
    return {
        "network": name,
        "block": block,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "median_us": {form: timing.median_us for form, timing in times.items()},
        "errors": errors,
        "ours": ours,
        "against_eager": asdict(ratio(times[eager], times[ours])),
        "best_dense": best,
        "against_best_dense": asdict(against_best),
        "slower_than_dense": against_best.value < 0.99,
        "swapped": f"{len(report.swapped)} of {len(report.layers)}",
        "folded": 0 if fused is None else len(fused.folded),
        "stayed_dense": dict(Counter(one.reason for one in report.layers if one.decision == "kept")),
        "undone": report.undone,
    }


def overhead(budget_s: float) -> dict[str, Any]:
    """What a call of a swapped layer costs beyond F.linear where there is nothing to compute."""
    dense = nn.Linear(16, 16)
    with torch.no_grad():
        dense.weight *= torch.eye(16)
    sparse, x = sk.SparseLinear.from_dense(dense, (1, 1)), torch.randn(1, 16)
    weight, bias = dense.weight, dense.bias
    times = interleave(
        {
            "F.linear": partial(nn.functional.linear, x, weight, bias),
            "nn.Linear": partial(dense, x),
            "SparseLinear": partial(sparse, x),
        },
        budget_s=budget_s,
    )
    found = {name: timing.median_us for name, timing in times.items()}
    return {"median_us": found, "over_F_linear_us": found["SparseLinear"] - found["F.linear"]}


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name in options.only:
            if name == "overhead":
                yield {"overhead": overhead(options.budget), "threads": threads}
                continue
            for block in ((1, 1), (16, 1)):
                for batch in options.batch:
                    torch._dynamo.reset()
                    yield row(name, block, batch, options)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    every = ("overhead", *NETWORKS)
    parser.add_argument("--only", nargs="+", default=every, metavar="NAME", help=" ".join(every))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of timing for a row (%(default)s)")
    parser.add_argument("--out", type=Path, help="a file for all of it, JSON")
    options = parser.parse_args()
    torchvision_operators.declare()
    content: dict[str, Any] = {"machine": machine.describe(cpu.isa()), "python": platform.python_version()}
    content |= {"versions": machine.versions(), "sparsity": options.sparsity, "rows": []}
    with torch.no_grad():
        for found in rows(options):
            content["rows"].append(found)
            print(json.dumps(found), flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
