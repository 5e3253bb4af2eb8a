"""The table of docs/networks.md: networks of others, dense in every form against swapped, eager and compiled.

python tools/third_party_table.py --batch 1 32 --threads 1 2 --out docs/results/third_party.json
python tools/third_party_table.py --only overhead --out docs/results/third_party.json

Weights are random, and masked at random in whole blocks. One row is a network, a block, a batch and a number
of threads; its variants are timed interleaved. `compiled` is torch.compile of the dense network. Each row
also says how many layers stayed dense and why, and where its minutes went. Rows that the file holds already
are not measured again; the same in Markdown lies beside it.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision_operators
from torch import nn

import sparsekern as sk
from sparsekern.bench import Ratio, best_dense_model, fold_norms, hardest, interleave, machine, ratio
from sparsekern.bench.atomic import write_atomically
from sparsekern.cli.bench.cases import random_mask
from sparsekern.kernels import cpu
from sparsekern.masks import fit_block, maskable

TOKENS = 128
Made = tuple[nn.Module, Callable[[int], Any]]
Forms = dict[str, tuple[Any, Any]]


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


COLUMNS = {
    "eager": ("eager", "eager_channels_last"),
    "oneDNN": ("onednn", "onednn_opaque", "fused"),  # the last with norms folded
    "compiled": ("compiled", "compiled_folded"),
    "swapped": ("swapped",),
    "swapped, compiled": ("swapped_compiled",),
}
"""What is timed, by the column of the table that has the fastest of them."""


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


class Clock:
    """Seconds since it was made or last asked, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.began = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.began = round(now - self.began, 1), now


def channels_last(model: nn.Module, inputs: Any) -> tuple[nn.Module, Any]:
    if isinstance(inputs, dict) or inputs.dim() != 4:
        return model, inputs
    kind = torch.channels_last
    return copy.deepcopy(model).to(memory_format=kind), inputs.contiguous(memory_format=kind)


def forms_of(model: nn.Module, inputs: Any, block: tuple[int, int], clock: Clock) -> tuple[Forms, Any, int]:
    """What is timed, with what it is called with; the report of the swap, and how much was folded after."""
    dense, given = channels_last(model, inputs)
    images = isinstance(given, torch.Tensor)
    swapped: Any = fold_norms(dense) if images else copy.deepcopy(dense)
    report = sk.swap_(swapped, given, block=block)
    folded = len(sk.fuse_(swapped, given).folded) if images else 0
    clock.lap("swap")
    forms = {"eager": (model, inputs), "compiled": (torch.compile(model), inputs)}
    if dense is not model:
        forms["eager_channels_last"] = (dense, given)
        forms["compiled_folded"] = (torch.compile(fold_norms(dense)), given)
    if images:
        others = best_dense_model(model, inputs)
        forms |= {form: (others[form], inputs) for form in COLUMNS["oneDNN"] if callable(others.get(form))}
    forms |= {"swapped": (swapped, given), "swapped_compiled": (torch.compile(swapped), given)}
    return forms, report, folded


def errors_of(forms: Forms) -> dict[str, float]:
    """How far each form is from float64, in units of the largest output; ValueError if that is far."""
    model, inputs = forms["eager"]
    want = call(copy.deepcopy(model).double(), {**inputs} if isinstance(inputs, dict) else inputs.double())
    largest = want.abs().max()
    errors = {form: float((call(*made) - want).abs().max() / largest) for form, made in forms.items()}
    for form, error in errors.items():
        if error > 1e-4:
            raise ValueError(f"{form} is off by {error:.1e} of its largest output")
    return errors


def row(name: str, block: tuple[int, int], batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """All variants of one network on one batch."""
    source, _, about = name.partition(":")
    torch.manual_seed(0)
    clock = Clock()
    model, draw = SOURCES[source](about)
    forms, report, folded = forms_of(
        masked_(model, options.sparsity, block), draw(batch), block=block, clock=clock
    )
    errors = errors_of(forms)
    clock.lap("compile")
    times = interleave({form: partial(call, *made) for form, made in forms.items()}, budget_s=options.budget)
    clock.lap("timing")
    rivals = [form for form in times if not form.startswith("swapped")]
    ours = min(("swapped", "swapped_compiled"), key=lambda form: times[form].median_us)
    best, against_best = hardest(times, rivals, ours)
    eager = "eager_channels_last" if "eager_channels_last" in times else "eager"
    return {
        **key_of(name, block, batch),
        "median_us": {form: timing.median_us for form, timing in times.items()},
        "errors": errors,
        "ours": ours,
        "against_eager": asdict(ratio(times[eager], times[ours])),
        "best_dense": best,
        "against_best_dense": asdict(against_best),
        "slower_than_dense": against_best.value < 0.99,
        "swapped": f"{len(report.swapped)} of {len(report.layers)}",
        "folded": folded,
        "stayed_dense": dict(Counter(one.reason for one in report.layers if one.decision == "kept")),
        "undone": report.undone,
        "swap_says": report.summary(),
        "seconds": clock.laps,
    }


def key_of(name: str, block: tuple[int, int], batch: int) -> dict[str, Any]:
    """What tells one row from another."""
    return {"network": name, "block": list(block), "batch": batch, "threads": torch.get_num_threads()}


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


def rows(options: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All that are asked for and not known yet."""
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name in options.only:
            if name == "overhead":
                if not any("overhead" in one and one["threads"] == threads for one in known):
                    yield {"overhead": overhead(options.budget), "threads": threads}
                continue
            for block, batch in itertools.product(((1, 1), (16, 1)), options.batch):
                key = key_of(name, block, batch)
                if not any(key.items() <= one.items() for one in known):
                    torch._dynamo.reset()
                    yield row(name, block, batch, options)


# ---- the table


def markdown(content: dict[str, Any]) -> str:
    """All rows as tables: times, and which layers stayed dense."""
    own = [one for one in content["rows"] if "network" in one]
    slow = [f"{title(one)} ({ratio_of(one)})" for one in own if one["slower_than_dense"]]
    head = ("network", "blocks", "batch", "threads", *COLUMNS)
    rivals = ("against eager", "against best dense", "slower than it by more than 1 %")
    cpu_of = content["machine"]
    lines = [
        f"{content['sparsity']:.0%} zeros, drawn at random; {cpu_of['cpu']}, {cpu_of['isa']}.",
        "Times in ms, of the fastest form in a column: in either memory format, with norms folded or not.",
        "",
        *table((*head, *rivals), map(cells, own)),
        "",
        f"Slower than the best dense form by more than 1 %: {'; '.join(slow) or 'no row'}.",
        "",
        *table(("row", "swapped", "folded", "stayed dense, and why", "what swap_ says"), map(whys, own)),
    ]
    for one in content["rows"]:
        if "overhead" in one:
            us = one["overhead"]["over_F_linear_us"]
            lines += ["", f"A call of a swapped layer, {one['threads']} threads: {us:.1f} us over F.linear."]
    return "\n".join(lines) + "\n"


def table(head: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def title(one: dict[str, Any]) -> str:
    high, wide = one["block"]
    return f"{one['network']}, {high}x{wide}, batch {one['batch']}, threads {one['threads']}"


def ratio_of(one: dict[str, Any], rival: str = "best_dense") -> str:
    return str(Ratio(**one[f"against_{rival}"]))


def cells(one: dict[str, Any]) -> list[str]:
    def fastest(forms: tuple[str, ...]) -> str:
        found = [one["median_us"][form] for form in forms if form in one["median_us"]]
        return f"{min(found) / 1e3:.2f}" if found else ""

    high, wide = one["block"]
    numbers = [str(one[name]) for name in ("batch", "threads")]
    numbers += map(fastest, COLUMNS.values())
    against = (ratio_of(one, "eager"), f"{ratio_of(one)}, {one['best_dense']}")
    slower = "**yes**" if one["slower_than_dense"] else "no"
    return [one["network"], f"{high}x{wide}", *numbers, *against, slower]


def whys(one: dict[str, Any]) -> list[str]:
    alike: Counter[str] = Counter()  # but for the figures of each layer, which are in the JSON file
    for reason, count in one["stayed_dense"].items():
        alike[re.sub(r"^[\d.]+x \(.*?\): |(?<=expected )[\d.]+ ", "", reason)] += count
    reasons = "; ".join(f"{count}: {reason}" for reason, count in alike.items())
    return [title(one), one["swapped"], str(one["folded"]), reasons or "none", one["swap_says"]]


def keep(content: dict[str, Any], out: Path) -> None:
    write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
    out.with_suffix(".md").write_text(markdown(content), "utf-8")


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    every = ("overhead", *NETWORKS)
    parser.add_argument("--only", nargs="+", default=every, metavar="NAME", help=" ".join(every))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of timing for a row (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the table goes to .md beside it")
    options = parser.parse_args()
    torchvision_operators.declare()
    here = machine.describe(cpu.isa())
    del here["threads"]  # each row has its own
    content: dict[str, Any] = {"machine": here, "versions": machine.versions()}
    content |= {"sparsity": options.sparsity, "rows": []}
    if options.out.exists():
        before = json.loads(options.out.read_text("utf-8"))
        if other := [name for name in content if name != "rows" and before.get(name) != content[name]]:
            parser.error(f"{options.out} has rows of another {', '.join(other)}: expected a new file")
        content = before
    keep(content, options.out)
    with torch.no_grad():
        for found in rows(options, content["rows"]):
            content["rows"].append(found)
            print(json.dumps(found), flush=True)
            keep(content, options.out)


if __name__ == "__main__":
    main()
