"""The part "train": forward and both gradients of a linear layer, each by itself and together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from sparsekern.cli.gpu.checks import computed, truths
from sparsekern.cli.gpu.contest import Entrant, cells, contest
from sparsekern.cli.gpu.drawn import LINEAR, Block, dense_of, draw, draw_weight
from sparsekern.cli.gpu.linear import Shape
from sparsekern.cli.gpu.roofline import Work
from sparsekern.cli.gpu.setting import Entry, Setting, in_words, raised
from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.kernels.triton import tune

SHAPES: tuple[Shape, ...] = ((4096, 4096, 4096), (8192, 4096, 14336))
BLOCKS: tuple[Block, ...] = ((64, 64), (64, 16))
SPARSITIES = (0.8, 0.9, 0.95)
TINY: tuple[tuple[Shape, ...], tuple[Block, ...], tuple[float, ...]] = (((20, 32, 32),), ((16, 16),), (0.5,))
TIMING_S = 1.5  # for each phase of a shape, cold and warm


class Step(NamedTuple):
    """What a training step of the layer computes with."""

    x: Tensor
    grad: Tensor
    weight: Tensor
    bias: Tensor


Dense = Callable[[Step], object]
Sparse = Callable[[Step, PackedWeight], object]


def _all_dense(step: Step) -> object:
    return [dense(step) for dense, _ in list(PHASES.values())[:3]]


def _all_sparse(step: Step, weight: PackedWeight) -> object:
    return [sparse(step, weight) for _, sparse in list(PHASES.values())[:3]]


PHASES: Mapping[str, tuple[Dense, Sparse]] = {
    "forward": (
        lambda step: F.linear(step.x, step.weight, step.bias),
        lambda step, weight: BY_NAME[LINEAR].backend().run(step.x, weight),
    ),
    "gradient of x": (
        lambda step: step.grad @ step.weight,
        lambda step, weight: BY_NAME[LINEAR].backend().grad_input(step.grad, weight),
    ),
    "gradient of W": (
        lambda step: step.grad.T @ step.x,
        lambda step, weight: BY_NAME[LINEAR].backend().grad_values(step.grad, step.x, weight),
    ),
    "all": (_all_dense, _all_sparse),
}


def run(setting: Setting) -> Iterator[Entry]:
    """An entry for the dense layer, and for each block and sparsity, in each phase of each shape."""
    shapes, blocks, sparsities = TINY if setting.tiny else (SHAPES, BLOCKS, SPARSITIES)
    for m, n, k in shapes:
        about: Entry = {"m": m, "n": n, "k": k}
        if setting.left_s <= 0:
            yield {**about, "skipped": "no time left"}
            continue
        try:
            yield from _measure(setting, (m, n, k), list(product(blocks, sparsities)))
        except raised() as error:
            yield {**about, "error": in_words(error)}


def _measure(setting: Setting, shape: Shape, every: Sequence[tuple[Block, float]]) -> Iterator[Entry]:
    m, n, k = shape
    about: Entry = {"m": m, "n": n, "k": k}
    step = Step(*(draw(setting.device, *size) for size in ((m, k), (m, n), (n, k), (n,))))
    weights = {(block, share): draw_weight(setting.device, n, k, block, share) for block, share in every}
    runs = [partial(_wrong, step, weight) for weight in weights.values()]
    errors = tune.side_by_side(runs, setting.workers, setting.device)
    right = {}
    for ((block, sparsity), weight), error in zip(weights.items(), errors, strict=True):
        known = {**about, "rival": "sparsekern", "block": list(block), "sparsity": sparsity}
        if error is None:
            right[f"{block} {sparsity}"] = ({**known, "index_us": _index_us(setting, weight)}, weight)
        else:
            yield {**known, "error": error}
    for phase, (dense, sparse) in PHASES.items():
        times = 3 if phase == "all" else 1
        work = _work(step, step.weight.numel(), times)
        torchs = {**about, "phase": phase, "rival": "torch"}
        entrants = {"torch": Entrant(partial(dense, step), work, torchs, dense=True)}
        for name, (known, weight) in right.items():
            work = _work(step, weight.values.numel(), times)
            entrants[name] = Entrant(partial(sparse, step, weight), work, {**known, "phase": phase})
        yield from contest(setting, entrants, 0.01 if setting.tiny else TIMING_S)


def _work(step: Step, stored: int, times: int) -> Work:
    """Of so many of the three products: each reads two of x, gradient and weight, and writes the third."""
    moved = step.x.numel() + step.grad.numel() + stored
    return Work(2 * times * stored * step.x.shape[0], 2 * times * moved)


def _wrong(step: Step, weight: PackedWeight) -> str | None:
    """What is wrong with one of the products, on rows that float64 takes in little time."""
    x, grad = step.x[:1024], step.grad[:1024]
    try:
        for got, (name, truth) in zip(
            computed(weight, x, grad), truths(weight, dense_of(weight), x, grad).items(), strict=True
        ):
            try:
                truth.check(got, x.dtype)
            except ValueError as error:
                return f"{name}: {error}"
        computed(weight, step.x, step.grad)
    except raised() as error:
        return in_words(error)
    return None


def _index_us(setting: Setting, weight: PackedWeight) -> float:
    """What a new mask costs besides its values."""
    matrix = BlockSparse.trusted((weight.n, weight.k), weight.crow, weight.col, weight.values)
    pack = partial(BY_NAME[LINEAR].backend().pack, matrix)
    return setting.medians_us({"pack": pack}, budget_s=0.05, graphs=False)["pack"]


def lines(entries: Sequence[Entry]) -> Iterator[str]:
    """A line for each shape, block and sparsity."""
    yield "bfloat16, times as fast as dense with a cold L2 cache:"
    yield cells(["m x n x k", "block", "sparsity", *PHASES, "dense us", "sparse us", "index us"])
    yield f"|{'---|' * (len(PHASES) + 6)}"
    timed = [entry for entry in entries if "cold_us" in entry]
    torchs = {_shape(e): e["cold_us"] for e in timed if e["rival"] == "torch" and e["phase"] == "all"}
    rows: dict[tuple[str, str, float], dict[str, Entry]] = {}
    for entry in timed:
        if "block" in entry:
            key = _shape(entry), f"{entry['block'][0]}x{entry['block'][1]}", entry["sparsity"]
            rows.setdefault(key, {})[entry["phase"]] = entry
    for (shape, block, sparsity), of in rows.items():
        speedups = [f"{of[phase]['cold_speedup']['value']:.2f}" if phase in of else "" for phase in PHASES]
        ours = f"{of['all']['cold_us']:.1f}" if "all" in of else ""
        index = f"{next(iter(of.values()))['index_us']:.0f}"
        dense = f"{torchs[shape]:.1f}" if shape in torchs else ""
        yield cells([shape, block, f"{100 * sparsity:.0f} %", *speedups, dense, ours, index])
    for entry in entries:
        if "error" in entry:
            block = f", {entry['block']} at {entry['sparsity']}" if "block" in entry else ""
            yield f"- {_shape(entry)}{block}: {entry['error']}"
    yield from (f"- {_shape(e)}: {e['skipped']}" for e in entries if "skipped" in e)


def _shape(entry: Entry) -> str:
    return "x".join(str(entry[size]) for size in "mnk")
