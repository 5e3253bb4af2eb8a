"""BlockSparse: a matrix in block-sparse rows, the one format that every kernel reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekern.masks import expand, fit_block, grid, pool

INT32_MAX = 2**31 - 1
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class BlockSparse:
    """A sparse matrix of blocks, in torch's own BSR words and layout.

    Edges may be ragged: with ``shape = (100, 50)`` and ``block = (16, 1)`` there are 7 block rows, and the
    last block's rows 4 to 15 are padding, held as zeros and never shown by :meth:`to_dense`. ``nnz`` blocks
    are stored.

    Attributes:
        shape: ``(n, k)``, outputs and inputs.
        block: ``(out, in)``; ``(1, 1)`` is unstructured, i.e. CSR.
        crow: int32 ``(ceil(n / out) + 1,)``, where each block row begins.
        col: int32 ``(nnz,)``, block columns, strictly rising within a block row.
        values: ``(nnz, out, in)``, floating point. NaN and infinity are kept as they are; note that a product
            skips stored-nowhere zeros, so NaN or infinity in an activation is hidden wherever the weight is
            zero.

    Everything is checked once, here; kernels trust it.

    Raises:
        ValueError: naming the part that is malformed, what came and what was expected.
    """

    shape: tuple[int, int]
    block: tuple[int, int]
    crow: Tensor
    col: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_tensors(self)
        _check_indices(self)

    @property
    def nnz(self) -> int:
        """Stored blocks."""
        return self.col.numel()

    @property
    def density(self) -> float:
        """Share of the blocks that is stored, 0 for an empty matrix."""
        rows, columns = grid(self.shape, self.block)
        return self.nnz / (rows * columns) if rows * columns else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the three tensors."""
        return sum(t.numel() * t.element_size() for t in (self.crow, self.col, self.values))

    @classmethod
    def from_dense(
        cls, weight: Tensor, block: tuple[int, int] = (1, 1), mask: Tensor | None = None
    ) -> BlockSparse:
        """Blocks of ``weight`` (n, k) that hold a nonzero, or a kept element where a bool ``mask`` (n, k) is
        given.

        Raises:
            ValueError: ``weight`` is not a two-dimensional strided float tensor, ``block`` does not fit in
                it, or ``mask`` has another shape.
        """
        _check_dense(weight, mask)
        if fit_block(block, weight.shape) != tuple(block):
            raise ValueError(f"block {tuple(block)} does not fit in a weight of shape {tuple(weight.shape)}")
        kept = weight != 0 if mask is None else mask
        return cls._gather(weight.detach(), kept, (int(block[0]), int(block[1])))

    @classmethod
    def _gather(cls, weight: Tensor, kept: Tensor, block: tuple[int, int]) -> BlockSparse:
        shape = (weight.shape[0], weight.shape[1])
        present = pool(kept, block) > 0
        crow = torch.zeros(present.shape[0] + 1, dtype=torch.int64, device=weight.device)
        crow[1:] = present.sum(1).cumsum(0)
        if int(crow[-1]) * block[0] * block[1] > INT32_MAX:
            raise ValueError(f"{int(crow[-1])} blocks of {block} overflow int32 indices")
        row, col = present.nonzero(as_tuple=True)
        values = _as_blocks(torch.where(kept, weight, torch.zeros_like(weight)), block)[row, col].contiguous()
        return cls(shape, block, crow.int(), col.int(), values)

    @classmethod
    def trusted(cls, shape: tuple[int, int], crow: Tensor, col: Tensor, values: Tensor) -> BlockSparse:
        """A matrix from tensors that came out of a validated one: nothing is checked again."""
        matrix = object.__new__(cls)
        block = (int(values.shape[1]), int(values.shape[2]))  # symbolic sizes become numbers here
        fields = {"shape": shape, "block": block, "crow": crow, "col": col, "values": values}
        for name, value in fields.items():
            object.__setattr__(matrix, name, value)
        return matrix

    def to_dense(self) -> Tensor:
        """The matrix, ``(n, k)``, zeros where nothing is stored. Differentiable in ``values``."""
        (n, k), (out, inner) = self.shape, self.block
        rows, columns = grid(self.shape, self.block)
        blocks = self.values.new_zeros(rows * columns, out, inner)
        blocks = blocks.index_copy(0, self.block_row() * columns + self.col.long(), self.values)
        return (
            blocks.view(rows, columns, out, inner)
            .transpose(1, 2)
            .reshape(rows * out, columns * inner)[:n, :k]
        )

    def block_row(self) -> Tensor:
        """int64 ``(nnz,)``: the block row of each stored block."""
        rows = torch.arange(self.crow.numel() - 1, device=self.crow.device)
        return rows.repeat_interleave(self.crow.diff().long(), output_size=self.nnz)

    def mask(self) -> Tensor:
        """bool ``(n, k)``: true in every element of a stored block, zero or not."""
        rows, columns = grid(self.shape, self.block)
        present = torch.zeros(rows * columns, dtype=torch.bool, device=self.col.device)
        present[self.block_row() * columns + self.col.long()] = True
        return expand(present.view(rows, columns), self.shape, self.block)

    def sample(self, matrix: Tensor) -> Tensor:
        """The blocks of a dense ``(n, k)`` matrix where this one stores some: ``(nnz, out, in)``, padding
        zero."""
        return _as_blocks(matrix, self.block)[self.block_row(), self.col.long()]


def _as_blocks(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """``(n, k)`` to ``(block rows, block columns, out, in)``, ragged edges padded with zeros."""
    rows, columns = grid(weight.shape, block)
    padded = torch.nn.functional.pad(
        weight, (0, columns * block[1] - weight.shape[1], 0, rows * block[0] - weight.shape[0])
    )
    return padded.view(rows, block[0], columns, block[1]).transpose(1, 2)


def _check_dense(weight: Tensor, mask: Tensor | None) -> None:
    if weight.dim() != 2 or weight.layout is not torch.strided or weight.dtype not in DTYPES:
        raise ValueError(
            f"expected a strided (n, k) weight of dtype {_names(DTYPES)}; "
            f"got shape {tuple(weight.shape)}, {weight.layout}, {weight.dtype}"
        )
    if mask is not None and (mask.shape != weight.shape or mask.dtype is not torch.bool):
        raise ValueError(
            f"expected a bool mask of shape {tuple(weight.shape)}; got {mask.dtype} {tuple(mask.shape)}"
        )


def _check_sizes(m: BlockSparse) -> None:
    for name, pair, least in (("shape", m.shape, 0), ("block", m.block, 1)):
        if len(pair) != 2 or not all(type(size) is int and least <= size <= INT32_MAX for size in pair):
            raise ValueError(f"{name}: expected two ints in [{least}, 2^31), got {pair!r}")
    if all(m.shape) and (m.block[0] > m.shape[0] or m.block[1] > m.shape[1]):
        raise ValueError(f"block {m.block} does not fit in shape {m.shape}")


def _check_tensors(m: BlockSparse) -> None:
    rows, _ = grid(m.shape, m.block)
    for name, index in (("crow", m.crow), ("col", m.col)):
        if index.dtype is not torch.int32 or index.dim() != 1 or not index.is_contiguous():
            raise ValueError(f"{name}: expected contiguous int32 of one dimension, got {_kind(index)}")
        if index.device != m.values.device:
            raise ValueError(f"{name} is on {index.device}, values on {m.values.device}; expected one device")
    if m.crow.numel() != rows + 1:
        raise ValueError(f"crow: expected {rows + 1} entries for {rows} block rows, got {m.crow.numel()}")
    want = (m.col.numel(), *m.block)
    if tuple(m.values.shape) != want or m.values.dtype not in DTYPES or not m.values.is_contiguous():
        raise ValueError(
            f"values: expected contiguous {want} of dtype {_names(DTYPES)}, got {_kind(m.values)}"
        )
    if m.values.numel() > INT32_MAX:
        raise ValueError(f"values: {m.values.numel()} elements overflow int32 indices")


def _check_indices(m: BlockSparse) -> None:
    if m.crow.is_meta:  # shapes only: there is nothing to read
        return
    _, columns = grid(m.shape, m.block)
    crow, col = m.crow.long(), m.col.long()
    if int(crow[0]) != 0 or int(crow[-1]) != m.nnz:
        raise ValueError(
            f"crow: expected to run from 0 to {m.nnz} (len of col), got {int(crow[0])} to {int(crow[-1])}"
        )
    falls = (crow.diff() < 0).nonzero()
    if falls.numel():
        at = int(falls[0])
        raise ValueError(
            f"crow: falls from {int(crow[at])} to {int(crow[at + 1])} at block row {at}; expected rising"
        )
    outside = ((col < 0) | (col >= columns)).nonzero()
    if outside.numel():
        at = int(outside[0])
        raise ValueError(f"col[{at}] = {int(col[at])}: expected a block column in [0, {columns})")
    key = m.block_row() * columns + col
    unsorted = (key.diff() <= 0).nonzero()
    if unsorted.numel():
        at = int(unsorted[0])
        raise ValueError(
            f"col[{at}] = {int(col[at])}, col[{at + 1}] = {int(col[at + 1])} in one block row; "
            "expected strictly rising columns"
        )


def _kind(t: Tensor) -> str:
    return f"{t.dtype} {tuple(t.shape)}{'' if t.is_contiguous() else ' (not contiguous)'}"


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return "/".join(str(d).removeprefix("torch.") for d in dtypes)
