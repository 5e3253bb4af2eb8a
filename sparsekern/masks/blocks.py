"""Block arithmetic: a weight seen as a grid of `block = (out, in)` rectangles.

The weight of a convolution, (out, in, kh, kw), becomes a matrix (out, in * kh * kw) as its block wants it. In
its own order blocks hold whole kernels: (1, kh * kw) is one of them, (1, in * kh * kw) a filter. A block of
several outputs whose inputs are no multiple of kh * kw spans input channels at one place of the kernel: the
matrix then has the order (kh, kw, in), that of a product on images that lie channels last.

The last block row and column may be ragged: 100 outputs in blocks of 16 make 7 block rows, the last of 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(out, rest) of a weight's shape; ValueError for fewer than two dimensions."""
    if len(shape) < 2:
        raise ValueError(f"a weight of at least two dimensions is expected, got shape {tuple(shape)}")
    return shape[0], math.prod(shape[1:])


def fit_block(block: Sequence[int], shape: Sequence[int]) -> tuple[int, int]:
    """The block clipped to the layer: (16, 1) on a layer of 10 outputs is (10, 1).

    ValueError if `block` is not two positive ints or `shape` has fewer than two dimensions.
    """
    if (
        not isinstance(block, Sequence)
        or len(block) != 2
        or not all(type(size) is int and size > 0 for size in block)
    ):
        raise ValueError(f"block must be two positive ints (out, in), got {block!r}")
    out, rest = _matrix_shape(shape)
    return min(block[0], max(out, 1)), min(block[1], max(rest, 1))


def channels_last(shape: Sequence[int], block: Sequence[int]) -> bool:
    """Whether the matrix of a weight in such blocks has the order (kh, kw, in), see above."""
    high, wide = fit_block(block, shape)
    return high > 1 and wide > 1 and wide % max(math.prod(shape[2:]), 1) != 0


def as_matrix(weight: Tensor, block: Sequence[int]) -> Tensor:
    """A weight (out, in, …) as the matrix (out, rest) that its blocks tile; a view where that can be."""
    rows_columns = _matrix_shape(weight.shape)
    if channels_last(weight.shape, block):
        weight = weight.movedim(1, -1)
    return weight.reshape(rows_columns)


def as_weight(matrix: Tensor, shape: Sequence[int], block: Sequence[int]) -> Tensor:
    """The way back from :func:`as_matrix` to a weight of `shape`."""
    if channels_last(shape, block):
        return matrix.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return matrix.reshape(tuple(shape))


def grid(shape: Sequence[int], block: Sequence[int]) -> tuple[int, int]:
    """(block rows, block columns) that cover a weight of `shape`; ragged blocks at the far edges count."""
    out, rest = _matrix_shape(shape)
    high, wide = fit_block(block, shape)
    return -(-out // high), -(-rest // wide)


def pool(scores: Tensor, block: Sequence[int]) -> Tensor:
    """The sum of `scores` over each block, shape (block rows, block columns).

    What a ragged block lacks counts zero. Sums are float64 (int64 for bool and integer scores), so that equal
    blocks tie whatever the order of their elements.
    """
    high, wide = fit_block(block, scores.shape)
    rows, cols = grid(scores.shape, block)
    out, rest = _matrix_shape(scores.shape)
    matrix = as_matrix(scores, block).to(torch.float64 if scores.is_floating_point() else torch.int64)
    if (high, wide) == (1, 1):
        return matrix
    padded = torch.nn.functional.pad(matrix, (0, cols * wide - rest, 0, rows * high - out))
    return padded.reshape(rows, high, cols, wide).sum(dim=(1, 3))


def expand(block_mask: Tensor, shape: Sequence[int], block: Sequence[int]) -> Tensor:
    """The bool mask of `shape` in which each element says what its block says: the way back from `pool`.

    ValueError if `block_mask` is not a bool tensor of shape `grid(shape, block)`.
    """
    expected = grid(shape, block)
    if block_mask.dtype != torch.bool or tuple(block_mask.shape) != expected:
        raise ValueError(
            f"block mask must be bool of shape {expected} for a weight of {tuple(shape)} "
            f"in blocks {tuple(block)}, got {block_mask.dtype} of shape {tuple(block_mask.shape)}"
        )
    high, wide = fit_block(block, shape)
    out, rest = _matrix_shape(shape)
    whole = block_mask.repeat_interleave(high, dim=0).repeat_interleave(wide, dim=1)
    return as_weight(whole[:out, :rest], shape, block)
