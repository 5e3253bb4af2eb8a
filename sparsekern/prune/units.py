"""Units: what a structure makes of one weight's scores, best first; and the mask of the best of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekern.masks import expand, grid, pool
from sparsekern.prune.structure import BlockLike, as_structure, block_scores


def whole(count: float) -> int:
    """The whole number nearest to `count`; of two equally near, the higher, so that no tie takes a weight."""
    # 25 * 0.86 is a little less than 21.5 in binary; a millionth of an element is more than such errors.
    return math.floor(round(count, 6) + 0.5)


@dataclass(frozen=True, eq=False)
class Units:
    """What lives or dies together in one weight, best first; the dead come last.

    alive: bool, of the weight's shape. cell: the rectangle (out, in) that is never cut.
    cells: int64 (units, runs): unit u holds the cells `cells[u]` of the flat grid, one of each run.
    scores: float64 (units,), not rising. sizes: int64 (units,), elements alive in each; 0 is a dead unit.
    least: how many units the structure wants left; 0 where any number will do.
    """

    alive: Tensor
    cell: tuple[int, int]
    cells: Tensor
    scores: Tensor
    sizes: Tensor
    least: int = 0

    @property
    def living(self) -> int:
        """How many units have any element alive."""
        return int((self.sizes > 0).sum())

    @property
    def length(self) -> int:
        """How many cells a run has, those dead in all runs included."""
        rows, cols = grid(self.alive.shape, self.cell)
        return rows * cols // self.cells.shape[1]

    def wanted(self, density: float) -> float:
        """How many elements stay at `density`, whatever is dead already.

        Where the structure says how many units are least, that many of every run: a run with more alive may
        not make up for one with fewer.
        """
        if not self.least:
            return density * self.alive.numel()
        return float(self.sizes[: whole(density * self.length)].sum())

    def best(self, keep: int) -> Tensor:
        """The mask of the first `keep` units, bool of the weight's shape; dead elements stay dead.

        ValueError for a `keep` outside 0 … living.
        """
        if not 0 <= keep <= self.living:
            raise ValueError(f"keep must be between 0 and the {self.living} units alive, got {keep}")
        rows, cols = grid(self.alive.shape, self.cell)
        kept = torch.zeros(rows * cols, dtype=torch.bool, device=self.alive.device)
        kept[self.cells[:keep].flatten()] = True
        return expand(kept.reshape(rows, cols), self.alive.shape, self.cell) & self.alive


def units_of(scores: Tensor, block: BlockLike, alive: Tensor | None = None) -> Units:
    """The units of a weight whose elements are worth `scores`.

    scores: of the weight's shape, no NaN. alive: bool of that shape, None for all. Of equal cells the one
    with the lower index comes first. ValueError for NaN scores, an `alive` of another shape or dtype, or a
    structure that does not fit the shape.
    """
    alive = torch.ones_like(scores, dtype=torch.bool) if alive is None else alive
    if alive.dtype != torch.bool or alive.shape != scores.shape:
        raise ValueError(
            f"alive must be bool of shape {tuple(scores.shape)}, "
            f"got {alive.dtype} of shape {tuple(alive.shape)}"
        )
    if bool(scores.isnan().any()):
        raise ValueError(f"scores must be numbers, got {int(scores.isnan().sum())} NaN of {scores.numel()}")
    structure = as_structure(block)
    cell = structure.cell(scores.shape)
    means = block_scores(scores, cell, structure.pooling).flatten()
    living = pool(alive, cell).flatten()
    runs = structure.runs(scores.shape).to(scores.device)
    runs = runs[:, (living[runs] > 0).any(dim=0)]  # sorting what is dead in every run would only take time
    # The dead come last, even behind living cells of score -inf.
    ranked = torch.where(living > 0, means.clamp(min=torch.finfo(means.dtype).min), -math.inf)[runs]
    ranked, order = ranked.sort(dim=1, descending=True, stable=True)
    cells = runs.gather(1, order).T
    sizes = living[cells].sum(dim=1)
    # The cumulative minimum keeps the order within the runs, whatever sums round to and dead cells leave out.
    worth = ranked.where(ranked > -math.inf, 0).mean(dim=0).cummin(dim=0).values
    return Units(alive, cell, cells, worth, sizes, structure.least)


def top_blocks(scores: Tensor, block: BlockLike, keep: int, alive: Tensor | None = None) -> Tensor:
    """The mask of the `keep` best units among those with any element alive: exact at ties.

    scores, alive, and the errors: see `units_of`. Dead elements stay dead, so masks nest. Returns bool of
    the weight's shape. ValueError also for a `keep` outside 0 … units alive.
    """
    return units_of(scores, block, alive).best(keep)
