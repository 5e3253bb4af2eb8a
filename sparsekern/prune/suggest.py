"""suggest_block: which block is worth it for which layer, before anything is trained in it.

Larger blocks run faster and keep less of a ticket's magnitude; how much of both depends on the layer, its
input and the machine. The times come from outside, since pruning knows nothing of kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsekern.masks import fit_block, maskable, masks_of, timer
from sparsekern.masks.timer import Time
from sparsekern.prune.api import next_masks
from sparsekern.prune.axes import Untraceable, quiet, run
from sparsekern.prune.permute import Group, permutable, permuted
from sparsekern.prune.regroup.search import Target, search
from sparsekern.prune.tables import as_table

Block = tuple[int, int]
BLOCKS: tuple[Block, ...] = ((1, 1), (8, 1), (16, 1), (32, 1), (64, 16))
MARGIN = 0.05
"""By how much sparse must be faster to be worth anything."""


@dataclass(frozen=True)
class BlockChoice:
    """One layer in one block.

    Attributes:
        name: that of the weight.
        density: the share of it in the blocks kept, as near to what was wanted as whole blocks allow.
        kept: the share of its magnitude (L1) in them, after hidden units were put in order for them.
        dense_us: the time of the best dense implementation; None if it was not timed.
        sparse_us: the time of the sparse kernel.
        verdict: whether it is worth it, in words.
    """

    name: str
    block: Block
    density: float
    kept: float
    dense_us: float | None = None
    sparse_us: float | None = None
    verdict: str = ""

    @property
    def speedup(self) -> float | None:
        """How many times as fast as dense; None if it was not timed."""
        return None if self.dense_us is None or self.sparse_us is None else self.dense_us / self.sparse_us


@dataclass(frozen=True)
class BlockTable:
    """What `suggest_block` found; prints itself as a table. `reason` says why units were not put in order."""

    rows: tuple[BlockChoice, ...]
    reason: str = ""

    def fastest(self, kept: float) -> dict[str, Block]:
        """For each weight the fastest block that keeps at least that share of its magnitude and is worth it;
        what has none is left out. `regroup_` takes it as its `block`."""
        found: dict[str, BlockChoice] = {}
        for row in self.rows:
            worth_it = row.speedup is not None and row.speedup >= 1 + MARGIN and row.kept >= kept
            best = found.get(row.name)
            if worth_it and (best is None or cast(float, row.speedup) > cast(float, best.speedup)):
                found[row.name] = row
        return {name: row.block for name, row in found.items()}

    def __str__(self) -> str:
        head = ("layer", "block", "density", "kept", "dense us", "sparse us", "speed-up", "verdict")
        table = as_table(head, [_cells(row) for row in self.rows])
        return f"{table}\n{self.reason}" if self.reason else table


def _cells(row: BlockChoice) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        row.name,
        f"{row.block[0]}x{row.block[1]}",
        f"{row.density:.1%}",
        f"{row.kept:.1%}",
        number(row.dense_us, ".1f"),
        number(row.sparse_us, ".1f"),
        number(row.speedup, ".2f"),
        row.verdict,
    )


def suggest_block(
    model: nn.Module,
    example_inputs: Any,
    blocks: Sequence[Block] = BLOCKS,
    *,
    sparsity: float | None = None,
    time: Time | None = None,
    permute: bool = True,
) -> BlockTable:
    """What each layer of `model` would keep, and how fast it would be, in each of several blocks; changes
    nothing.

    example_inputs: what the model is called with; each layer is timed on the input that it sees then.
    sparsity: the share of zeros of every maskable layer; by default that of each layer's mask,
    layers without one left out. time: see `masks.timer`; without one there, nothing is timed.
    permute: put hidden units in the best order first, as `regroup_` does, separately for each block, at its
    cost.

    ValueError for no blocks or bad ones, a sparsity outside [0, 1) or one that leaves a layer without any
    block, no layer to look at, and example inputs that do not run.
    """
    if not blocks:
        raise ValueError("at least one block is expected, got none")
    scores, rates = _layers(model, sparsity)
    groups, reason = list[Group](), ""
    if permute:
        try:
            groups = permutable(model, example_inputs)
        except Untraceable as error:
            reason = f"hidden units were not put in order: {error}"
    inputs, time = _inputs(model, example_inputs), time or timer.default
    rows = []
    for block in blocks:
        for name, (density, kept, mask) in _in_blocks(scores, rates, groups, block).items():
            row = BlockChoice(name, fit_block(block, mask.shape), density, kept)
            layer = name.rpartition(".")[0]
            rows.append(_timed(row, time, (model.get_submodule(layer), mask, inputs.get(layer))))
    order = list(scores)
    rows.sort(key=lambda row: order.index(row.name))
    return BlockTable(tuple(_judged(row, rows) for row in rows), reason)


def _layers(model: nn.Module, sparsity: float | None) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The magnitudes of what is alive, and the share of zeros wanted, by weight."""
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}")
    masks = masks_of(model)
    scores, rates = {}, {}
    for layer, module in maskable(model).items():
        name = f"{layer}.weight" if layer else "weight"
        if sparsity is not None or name in masks:
            scores[name] = cast(Tensor, module.weight).detach().cpu().abs().float()
            rates[name] = 1 - float(masks[name].double().mean()) if sparsity is None else sparsity
    if not scores:
        raise ValueError(
            f"{type(model).__name__} has no masked layer, or with a sparsity no layer that may be"
        )
    return scores, rates


def _in_blocks(
    scores: Mapping[str, Tensor], rates: Mapping[str, float], groups: Sequence[Group], block: Block
) -> dict[str, tuple[float, float, Tensor]]:
    """Density, share of magnitude kept, and mask of each weight in the best blocks."""
    targets = {
        name: Target(fit_block(block, values.shape), 1 - rates[name]) for name, values in scores.items()
    }
    ordered = permuted(scores, search(groups, scores, targets))
    everything = {name: torch.ones_like(values, dtype=torch.bool) for name, values in ordered.items()}
    masks = next_masks(ordered, everything, rates, block)
    found = {}
    for name, mask in masks.items():
        values = ordered[name].double()
        total = max(float(values.sum()), torch.finfo(torch.float64).tiny)
        found[name] = float(mask.double().mean()), float(values[mask].sum()) / total, mask
    return found


def _inputs(model: nn.Module, example_inputs: Any) -> dict[str, Tensor]:
    """The input that each layer sees."""
    seen: dict[str, Tensor] = {}

    def remember(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            seen[name] = args[0].detach().clone()

    hooks = [
        layer.register_forward_pre_hook(partial(remember, name)) for name, layer in maskable(model).items()
    ]
    try:
        with quiet(model):
            run(model, example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _timed(
    row: BlockChoice, time: Time | None, problem: tuple[nn.Module, Tensor, Tensor | None]
) -> BlockChoice:
    layer, mask, x = problem
    if time is None:
        return replace(row, verdict="not timed")
    if x is None:
        return replace(row, verdict="not timed: the example inputs never reach it")
    with torch.no_grad():
        times = time(layer, mask, row.block, x)
    if isinstance(times, str):
        return replace(row, verdict=times)
    return replace(row, dense_us=times[0], sparse_us=times[1])


def _judged(row: BlockChoice, rows: Sequence[BlockChoice]) -> BlockChoice:
    """The row with its verdict, among all of its layer: worth it if none is faster and keeps as much."""
    if row.speedup is None:
        return row
    if row.speedup < 1 + MARGIN:
        return replace(row, verdict=f"less than {MARGIN:.0%} faster than dense")
    for other in rows:
        if other.name == row.name and other.speedup is not None:
            better = (other.speedup, other.kept) != (row.speedup, row.kept)
            if better and other.speedup >= row.speedup and other.kept >= row.kept:
                return replace(row, verdict=f"{other.block[0]}x{other.block[1]} is as fast and keeps as much")
    return replace(row, verdict="worth it")
