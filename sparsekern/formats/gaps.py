"""The places of a matrix's blocks as bytes, for files: about one byte a block up to 99 % zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekern.formats.block_sparse import BlockSparse
from sparsekern.masks import grid

FAR = 255
"""This byte skips as many absent blocks and says that the gap goes on."""


def to_gaps(matrix: BlockSparse) -> Tensor:
    """uint8, on the CPU: for each stored block, in the order of rows and columns, how many absent blocks lie
    between it and the one before; a gap of 255 or more is FAR, once for each 255, and then the rest."""
    columns = grid(matrix.shape, matrix.block)[1]
    places = (matrix.block_row() * columns + matrix.col.long()).cpu()
    gaps = places.diff(prepend=places.new_tensor([-1])) - 1
    far = gaps // FAR
    stream = torch.full((gaps.numel() + int(far.sum()),), FAR, dtype=torch.uint8)
    stream[(far + 1).cumsum(0) - 1] = (gaps % FAR).to(torch.uint8)
    return stream


def from_gaps(stream: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """``(crow, col)``, int32, of the matrix (n, k) that ``to_gaps`` was given. Whatever the bytes, blocks
    come in order and no block comes twice.

    Raises:
        ValueError: it is not uint8 of one dimension, ends within a gap, or leads out of the matrix.
    """
    if stream.dtype is not torch.uint8 or stream.dim() != 1:
        raise ValueError(f"expected uint8 of one dimension, got {stream.dtype} {tuple(stream.shape)}")
    if stream.numel() and int(stream[-1]) == FAR:
        raise ValueError(f"ends within a gap: expected a last byte below {FAR}, got {FAR}")
    rows, columns = grid(shape, block)
    ends = (stream < FAR).nonzero().flatten()
    places = stream.long().cumsum(0)[ends] + torch.arange(ends.numel())
    if places.numel() and int(places[-1]) >= rows * columns:
        raise ValueError(f"leads to block {int(places[-1])}; expected one of {rows} x {columns} blocks")
    crow = torch.zeros(rows + 1, dtype=torch.int64)
    crow[1:] = torch.bincount(places // max(columns, 1), minlength=rows).cumsum(0)
    return crow.int(), (places % max(columns, 1)).int()
