"""Structure: which weights live or die together.

A structure cuts a weight into cells, rectangles `(out, in)`, and sorts the cells into runs of equal length.
The best cells of all runs make the first unit, the second best of all runs the next, and so on; a unit
lives or dies as a whole (`sparsekern.prune.units`). Where one run holds every cell, as with `Block`, a unit
is a cell; where there are more, as with `NM` and `FanIn`, every run keeps the same number of cells.

Wherever a `block` is asked for, these are taken: `(out, in)`, a name in STRUCTURES, or one of the values
below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsekern.masks import as_matrix, fit_block, grid, pool

POOLINGS = ("mean", "sum", "max")


def block_scores(scores: Tensor, block: Sequence[int], pooling: str = "mean") -> Tensor:
    """One score for each block of the real elements in it, float64 (block rows, block columns).

    pooling: one of POOLINGS. With a mean, and not with a sum, a ragged block at the edge is judged like its
    neighbours, and blocks of layers with other shapes like each other. ValueError for another name.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {pooling!r}: expected one of {list(POOLINGS)}")
    if pooling == "max":
        return _largest(scores, block)
    sums = pool(scores.double(), block)
    return sums if pooling == "sum" else sums / pool(torch.ones_like(scores, dtype=torch.bool), block)


def _largest(scores: Tensor, block: Sequence[int]) -> Tensor:
    high, wide = fit_block(block, scores.shape)
    rows, cols = grid(scores.shape, block)
    matrix = as_matrix(scores, block).double()
    missing = (0, cols * wide - matrix.shape[1], 0, rows * high - matrix.shape[0])
    padded = torch.nn.functional.pad(matrix, missing, value=-math.inf)
    return padded.reshape(rows, high, cols, wide).amax(dim=(1, 3))


@runtime_checkable
class Structure(Protocol):
    """What a structure has to say; `shape` is that of a weight, (out, in, ...).

    Both methods raise ValueError where the structure does not fit the shape.
    """

    @property
    def pooling(self) -> str:
        """How the scores in a cell become the cell's score: one of POOLINGS."""

    @property
    def least(self) -> int:
        """How many units must be left; 0 where any number will do."""

    def cell(self, shape: Sequence[int]) -> tuple[int, int]:
        """The rectangle (out, in) that is never cut, on the weight flattened to (out, rest)."""

    def runs(self, shape: Sequence[int]) -> Tensor:
        """Indices into the flat grid of cells, int64 (runs, cells of a run); each cell occurs once."""


@dataclass(frozen=True)
class Block:
    """Rectangles of `out` outputs by `inputs` inputs; None is all of that side.

    kernels: `inputs` counts input channels of a convolution, with all taps of each; of a Linear, an input
    is a channel. Blocks at the edges may be ragged, and one larger than the weight is clipped to it.
    ValueError for a side that is neither None nor a positive int, and for `kernels` with a given `out` on a
    weight without taps, where the plain block says the same.
    """

    out: int | None
    inputs: int | None
    kernels: bool = False
    pooling: str = "mean"

    least = 0

    def __post_init__(self) -> None:
        sides = (self.out, self.inputs)
        if not all(side is None or (type(side) is int and side > 0) for side in sides):
            raise ValueError(
                f"block must be two positive ints (out, in), None for a whole side, got {sides!r}"
            )

    def cell(self, shape: Sequence[int]) -> tuple[int, int]:
        """(out, in) of the block, clipped to a weight of `shape`."""
        taps = math.prod(shape[2:])
        if self.kernels and self.out is not None and len(shape) < 3:
            raise ValueError(
                f"{self}: the weight of a convolution is expected, got shape {tuple(shape)}; "
                f"block=({self.out}, {self.inputs}) means the same there"
            )
        size = taps if self.kernels else 1
        inputs = math.prod(shape[1:]) if self.inputs is None else self.inputs * size
        return fit_block((shape[0] if self.out is None else self.out, inputs), shape)

    def runs(self, shape: Sequence[int]) -> Tensor:
        """One run of all cells: (1, cells)."""
        return _cells(shape, self.cell(shape)).reshape(1, -1)


@dataclass(frozen=True)
class NM:
    """N:M sparsity: of every m neighbours n are kept, all over the weight (2:4 is `NM(2, 4)`).

    axis: "in" for neighbouring inputs, of a convolution the input channels at one tap, which is what sparse
    tensor cores read (Mishra et al. 2021, arXiv 2104.08378); "out" for neighbouring outputs of one input.
    out: so many neighbouring outputs share one pattern.

    At a sparsity of 1 - n / m exactly n of every m are left; below it, on the way there, more, but
    everywhere as many; above it is refused. ValueError unless 0 < n < m, and where m, or `out`, does not
    divide its side.
    """

    n: int
    m: int
    axis: str = "in"
    out: int = 1
    pooling: str = "mean"

    def __post_init__(self) -> None:
        if not all(type(size) is int for size in (self.n, self.m, self.out)):
            raise ValueError(f"{self}: n, m and out must be ints")
        if not 0 < self.n < self.m or self.out < 1:
            raise ValueError(f"{self}: 0 < n < m and out of at least 1 are expected")
        if self.axis not in ("in", "out"):
            raise ValueError(f"unknown axis {self.axis!r}: expected 'in' or 'out'")

    @property
    def least(self) -> int:
        """n of m."""
        return self.n

    def cell(self, shape: Sequence[int]) -> tuple[int, int]:
        """(out, 1)."""
        cell = fit_block((self.out, 1), shape)
        outputs, inputs = (self.out, self.m) if self.axis == "in" else (self.out * self.m, 1)
        if shape[0] % outputs or shape[1] % inputs:
            raise ValueError(
                f"{self}: a multiple of {outputs} outputs and of {inputs} inputs is expected, "
                f"got a weight of shape {tuple(shape)}"
            )
        return cell

    def runs(self, shape: Sequence[int]) -> Tensor:
        """(cells / m, m), neighbours along the axis."""
        cells = _cells(shape, self.cell(shape))
        along = cells.T
        if self.axis == "in":
            along = cells.reshape(-1, shape[1], math.prod(shape[2:])).transpose(1, 2)
        return along.reshape(-1, self.m)


@dataclass(frozen=True)
class FanIn:
    """Constant fan-in: every output of a layer keeps as many inputs as any other.

    Lasby et al. 2024 (SRigL), arXiv 2305.02299. out: so many neighbouring outputs share their inputs, as
    in blocks `(out, 1)`. An output that has fewer inputs left from an earlier mask keeps those.
    ValueError if `out` is not a positive int.
    """

    out: int = 1
    pooling: str = "mean"

    least = 0

    def __post_init__(self) -> None:
        if type(self.out) is not int or self.out < 1:
            raise ValueError(f"out must be a positive int, got {self.out!r}")

    def cell(self, shape: Sequence[int]) -> tuple[int, int]:
        """(out, 1)."""
        return fit_block((self.out, 1), shape)

    def runs(self, shape: Sequence[int]) -> Tensor:
        """(rows of cells, inputs)."""
        return _cells(shape, self.cell(shape))


STRUCTURES: dict[str, Structure] = {
    "filters": Block(1, None),
    "rows": Block(1, None),  # what filters are called in a Linear
    "kernels": Block(1, 1, kernels=True),
    "columns": Block(None, 1, kernels=True),  # dead input features; of a convolution, dead input channels
    "fan-in": FanIn(),
    "2:4": NM(2, 4),
}

BlockLike = Structure | str | Sequence[int]


def as_structure(block: BlockLike) -> Structure:
    """The structure that `block` says; ValueError if it says none."""
    if isinstance(block, str):
        if block not in STRUCTURES:
            raise ValueError(f"unknown structure {block!r}: expected one of {list(STRUCTURES)}")
        return STRUCTURES[block]
    if isinstance(block, Structure):
        return block
    if isinstance(block, Sequence) and len(block) == 2 and None not in block:
        return Block(*block)
    raise ValueError(
        f"block must be two positive ints (out, in), one of {list(STRUCTURES)} or a structure, got {block!r}"
    )


def _cells(shape: Sequence[int], cell: Sequence[int]) -> Tensor:
    """The index of each cell, int64 (cell rows, cell columns)."""
    rows, cols = grid(shape, cell)
    return torch.arange(rows * cols).reshape(rows, cols)
