"""The part "linear": y = x W^T + b in bfloat16 against every rival, of many rows and of few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from sparsekern.cli.bench.cases import Truth
from sparsekern.cli.gpu.contest import Entrant, break_even, cells, contest, percent
from sparsekern.cli.gpu.drawn import LINEAR, Block, dense_of, draw, draw_weight
from sparsekern.cli.gpu.rivals import DENSE, RIVALS, UNCAPTURED, Prepared, attempt
from sparsekern.cli.gpu.roofline import Work, dense_work, sparse_work
from sparsekern.cli.gpu.setting import Entry, Setting, in_words, raised
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.triton import cache, tune
from sparsekern.ops import linear_packed

Shape = tuple[int, int, int]
"""Rows m, outputs n, inputs k."""

SHAPES: tuple[Shape, ...] = (
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (8192, 14336, 4096),
    (8192, 4096, 14336),
    (65792, 1280, 5120),
)
BLOCKS: tuple[Block, ...] = (
    *((128, 128), (128, 64), (128, 16)),
    *((64, 64), (64, 32), (64, 16)),
    *((32, 32), (16, 16)),
)
DECODE_SHAPES: tuple[Shape, ...] = (
    *((1, 14336, 4096), (8, 14336, 4096), (16, 14336, 4096)),
    *((1, 4096, 14336), (8, 4096, 14336), (16, 4096, 14336)),
)
DECODE_BLOCKS: tuple[Block, ...] = ((128, 64), (64, 64), (32, 32), (16, 16))
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SHOWN = 0.9  # the sparsity of which more is shown

TIMING_S, DECODE_TIMING_S = 4.0, 1.5  # for one shape, cold and warm
EXPECTED_S, DECODE_EXPECTED_S = 14.0, 4.0  # what a shape takes with its checks
COMPILING_S = 35.0  # what torch.compile takes besides


class Case(NamedTuple):
    """A shape, and who computes it."""

    shape: Shape
    blocks: Sequence[Block]
    sparsities: Sequence[float]
    rivals: Sequence[str]
    timing_s: float
    expected_s: float


def cases(tiny: bool) -> list[Case]:
    """Many rows, then few."""
    if tiny:
        return [Case((20, 32, 32), ((16, 16),), (0.5, 0.9), tuple(RIVALS), 0.01, 1.0)]
    times, few = (DECODE_TIMING_S, DECODE_EXPECTED_S), ("cublas", "cublas_masked")
    return [
        *(Case(shape, BLOCKS, SPARSITIES, tuple(RIVALS), TIMING_S, EXPECTED_S) for shape in SHAPES),
        *(Case(shape, DECODE_BLOCKS, SPARSITIES, few, *times) for shape in DECODE_SHAPES),
    ]


def run(setting: Setting) -> Iterator[Entry]:
    """An entry for each rival, and for each block and sparsity, of each shape."""
    of = cases(setting.tiny)
    for i, case in enumerate(of):
        if setting.left_s <= 0:
            yield {**_sizes(case), "skipped": "no time left"}
            continue
        needed_s = COMPILING_S + sum(other.expected_s for other in of[i:])
        if "compiled" in case.rivals and setting.left_s < needed_s:
            yield {**_sizes(case), "rival": "compiled", "refusal": "no time left to compile"}
            case = case._replace(rivals=[name for name in case.rivals if name != "compiled"])
        try:
            with torch.no_grad():
                yield from _measure(setting, case)
        except raised() as error:
            yield {**_sizes(case), "error": in_words(error)}


def _sizes(case: Case) -> Entry:
    return dict(zip("mnk", case.shape, strict=True))


def _measure(setting: Setting, case: Case) -> Iterator[Entry]:
    m, n, k = case.shape
    x, weight, bias = (draw(setting.device, *size) for size in ((m, k), (n, k), (n,)))
    entrants: dict[str, Entrant] = {}
    for found in (_rivals(case, weight, bias, x), _ours(setting, case, x)):
        for name, entrant in found:
            if isinstance(entrant, Entrant):
                entrants[name] = entrant
            else:
                yield entrant
    if entrants:
        yield from contest(setting, entrants, case.timing_s)


def _rivals(case: Case, weight: Tensor, bias: Tensor, x: Tensor) -> Iterator[tuple[str, Entrant | Entry]]:
    """Each rival that computes what is right, and the refusal of each other."""
    for name in case.rivals:
        about: Entry = {**_sizes(case), "rival": name}
        prepared = attempt(RIVALS[name], weight, bias, x)
        if isinstance(prepared, Prepared):
            try:
                truth = Truth.of(prepared.weight, bias, x)
                about["error_abs"] = truth.check(prepared.call(x), x.dtype)
            except raised() as error:
                prepared = in_words(error)
        if isinstance(prepared, str):
            yield name, {**about, "refusal": prepared}
            continue
        stored = int(prepared.weight.count_nonzero()) if name not in DENSE else weight.numel()
        work = dense_work(*case.shape, x.element_size())
        work = Work(2 * x.shape[0] * stored, work.nbytes - (weight.numel() - stored) * x.element_size())
        captured = name not in UNCAPTURED
        yield name, Entrant(partial(prepared.call, x), work, about, name in DENSE, captured)


def _ours(setting: Setting, case: Case, x: Tensor) -> Iterator[tuple[str, Entrant | Entry]]:
    """sparsekern in each block at each sparsity; what does not run, or is wrong, is an error."""
    weights: dict[str, tuple[Entry, PackedWeight]] = {}
    for block, sparsity in product(case.blocks, case.sparsities):
        about = {**_sizes(case), "rival": "sparsekern", "block": list(block), "sparsity": sparsity}
        weight = draw_weight(setting.device, case.shape[1], case.shape[2], block, sparsity)
        weights[f"{block} {sparsity}"] = about, weight

    def first_run(weight: PackedWeight) -> str | None:
        try:
            linear_packed(x, weight, LINEAR)
        except raised() as error:
            return in_words(error)
        return None

    runs = [partial(first_run, weight) for _, weight in weights.values()]
    for (name, (about, weight)), wrong in zip(
        weights.items(), tune.side_by_side(runs, setting.workers, setting.device), strict=True
    ):
        call = partial(linear_packed, x, weight, LINEAR)
        if wrong is None:
            try:
                about["error_abs"] = _truth(weight, x).check(call(), x.dtype)
            except raised() as error:
                wrong = in_words(error)
        if wrong is not None:
            yield name, {**about, "error": wrong}
            continue
        (item,) = tune.linear_products(x, weight)
        about["launch"] = asdict(cache.choose(item.task))
        yield name, Entrant(call, sparse_work(x.shape[0], weight), about)


def _truth(weight: PackedWeight, x: Tensor) -> Truth:
    assert weight.bias is not None
    return Truth.of(dense_of(weight), weight.bias, x)


# ---- the tables


def lines(entries: Sequence[Entry]) -> Iterator[str]:
    """What each rival takes, a line for a shape; then sparsekern against the fastest dense one, a line for a
    shape and block."""
    timed = [entry for entry in entries if "cold_us" in entry]
    shapes = list(dict.fromkeys(_shape(entry) for entry in timed))
    yield "bfloat16, us with a cold L2 cache (2:4 and BSR hold 50 and 90 % zeros):"
    yield cells(["m x n x k", *RIVALS, "cublas of limit"])
    yield f"|{'---|' * (len(RIVALS) + 2)}"
    for shape in shapes:
        of = {entry["rival"]: entry for entry in timed if _shape(entry) == shape}
        times = [f"{of[name]['cold_us']:.1f}" if name in of else "" for name in RIVALS]
        yield cells([shape, *times, percent(of.get("cublas", {}), "share_of_limit")])
    yield "\nsparsekern, times as fast as the fastest dense one:"
    shares = [f"{100 * sparsity:.0f} %" for sparsity in SPARSITIES]
    more = [f"{what}, {100 * SHOWN:.0f} %" for what in ("warm", "of limit", "per FLOP")]
    yield cells(["m x n x k", "block", *shares, *more, "break-even"])
    yield f"|{'---|' * (len(shares) + len(more) + 3)}"
    for shape, block in dict.fromkeys((_shape(e), tuple(e["block"])) for e in timed if "block" in e):
        of_block = [e for e in timed if _shape(e) == shape and tuple(e.get("block", ())) == block]
        yield _row(shape, block, {entry["sparsity"]: entry for entry in of_block})
    refusals = {(e["rival"], e["refusal"]): _shape(e) for e in entries if "refusal" in e}
    yield from (f"- {rival} refuses, as at {at}: {why}" for (rival, why), at in refusals.items())
    yield from (f"- {_shape(e)} {e.get('block', '')}: {e['error']}" for e in entries if "error" in e)
    yield from (f"- {_shape(e)}: {e['skipped']}" for e in entries if "skipped" in e)


def _shape(entry: Entry) -> str:
    return "x".join(str(entry[size]) for size in "mnk")


def _row(shape: str, block: Block, of: dict[float, Entry]) -> str:
    speedups = {s: e["cold_speedup"]["value"] for s, e in of.items() if "cold_speedup" in e}
    shown = of.get(SHOWN, {})
    warm = f"{shown['warm_speedup']['value']:.2f}" if "warm_speedup" in shown else ""
    return cells(
        [
            shape,
            f"{block[0]}x{block[1]}",
            *(f"{speedups[s]:.2f}" if s in speedups else "" for s in SPARSITIES),
            warm,
            percent(shown, "share_of_limit"),
            percent(shown, "cold_per_flop"),
            break_even(list(speedups.items())) if speedups else "",
        ]
    )
