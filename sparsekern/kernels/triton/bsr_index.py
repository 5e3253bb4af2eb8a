"""The index of a weight's blocks that the Triton kernels read beside its own ``crow`` and ``col``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64
"""Inputs that one program of the values' gradient spans: blocks of one block row, side by side."""


class Index(NamedTuple):
    """Views of one int32 tensor, in this order; block rows are those of the weight, ``t`` of its transpose.

    Attributes:
        order: block rows, longest first.
        t_order, t_crow, t_col: the same of the transpose, and its rows and columns of blocks.
        t_slot: where in the weight's ``values`` each block of the transpose lies.
        chunk_row, chunk_begin, chunk_end: up to CHUNK inputs of blocks of one block row.
    """

    order: Tensor
    t_order: Tensor
    t_crow: Tensor
    t_col: Tensor
    t_slot: Tensor
    chunk_row: Tensor
    chunk_begin: Tensor
    chunk_end: Tensor


def chunk_blocks(width: int) -> int:
    """Blocks of ``width`` inputs in a chunk."""
    return max(1, CHUNK // width)


def make_index(
    crow: Tensor, col: Tensor, width: int, depth_blocks: int, taps: int = 1, groups: int = 1
) -> Tensor:
    """The index of blocks ``width`` inputs wide, int32, on the weight's device.

    Of a convolution, block columns stand for (tap, block of a group's channels), ``depth_blocks`` of them to
    a tap; the rows of its transpose are the blocks of the input's channels in all groups.
    """
    lengths = crow.diff().long()
    block_rows = lengths.numel()
    rows = torch.arange(block_rows, device=crow.device).repeat_interleave(lengths, output_size=col.numel())
    group_rows = max(1, block_rows // groups)
    t_row = rows // group_rows * depth_blocks + col % depth_blocks
    t_column = col // depth_blocks * group_rows + rows % group_rows
    slot = torch.argsort(t_row * (taps * group_rows) + t_column)
    t_lengths = torch.bincount(t_row, minlength=depth_blocks * groups)
    t_crow = torch.nn.functional.pad(t_lengths.cumsum(0), (1, 0))
    size = chunk_blocks(width)
    chunks = -(-lengths // size)
    chunk_row = torch.arange(block_rows, device=crow.device).repeat_interleave(chunks)
    within = torch.arange(chunk_row.numel(), device=crow.device) - (chunks.cumsum(0) - chunks)[chunk_row]
    begin = crow[:-1].long()[chunk_row] + within * size
    end = torch.minimum(begin + size, crow[1:].long()[chunk_row])
    orders = (_longest_first(lengths), _longest_first(t_lengths))
    parts = (*orders, t_crow, t_column[slot], slot, chunk_row, begin, end)
    return torch.cat([part.int() for part in parts])


def read_index(index: Tensor, block_rows: int, t_block_rows: int, blocks: int) -> Index:
    """The views of an index that :func:`make_index` made; no number is read."""
    sizes = [block_rows, t_block_rows, t_block_rows + 1, blocks, blocks]
    chunks = (index.numel() - sum(sizes)) // 3
    return Index(*torch.split(index, [*sizes, chunks, chunks, chunks]))


def _longest_first(lengths: Tensor) -> Tensor:
    return torch.argsort(lengths, descending=True, stable=True)
