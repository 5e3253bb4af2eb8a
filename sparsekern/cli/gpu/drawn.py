"""What is drawn at random for every part, on its device: normal values, never zeros but for the masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import PackedConv, PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.masks import as_matrix, expand, grid
from sparsekern.nn import SparseConv2d

Block = tuple[int, int]

LINEAR, CONV2D = "triton_linear", "triton_conv2d"
"""The kernels, by their names in KERNELS."""


def draw(device: torch.device, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Normal values."""
    return torch.randn(shape, device=device).to(dtype)


def draw_mask(device: torch.device, shape: Sequence[int], block: Block, sparsity: float) -> Tensor:
    """bool of a weight's shape; exactly the rounded share of its blocks, at random places, is false."""
    rows, columns = grid(shape, block)
    alive = torch.zeros(rows * columns, dtype=torch.bool, device=device)
    kept = rows * columns - round(sparsity * rows * columns)
    alive[torch.randperm(rows * columns, device=device)[:kept]] = True
    return expand(alive.view(rows, columns), shape, block)


def draw_weight(device: torch.device, n: int, k: int, block: Block, sparsity: float) -> PackedWeight:
    """A bfloat16 weight (n, k) and its bias, for the kernel of Linear."""
    mask = draw_mask(device, (n, k), block, sparsity)
    return packed(draw(device, n, k) * mask, block, mask, draw(device, n))


def packed(dense: Tensor, block: Block, mask: Tensor, bias: Tensor | None) -> PackedWeight:
    """A masked weight (n, k) as the kernel of Linear takes it."""
    matrix = BlockSparse.from_dense(dense, block, mask)
    index = BY_NAME[LINEAR].backend().pack(matrix)
    return PackedWeight(matrix.values, bias, matrix.crow, matrix.col, index, *matrix.shape)


def packed_conv(conv: nn.Conv2d, block: Block, mask: Tensor) -> PackedConv:
    """A masked layer as the kernel of Conv2d takes it."""
    geometry = SparseConv2d.geometry_of(conv)
    matrix = BlockSparse.from_dense(as_matrix(conv.weight.detach(), block), block, as_matrix(mask, block))
    index = BY_NAME[CONV2D].conv_backend().pack(matrix, geometry)
    return PackedConv(matrix.values, conv.bias, matrix.crow, matrix.col, index, geometry)


def dense_of(weight: PackedWeight, values: Tensor | None = None) -> Tensor:
    """The matrix (n, k) with its zeros; of other ``values`` at the same places where they are given."""
    values = weight.values if values is None else values
    return BlockSparse.trusted((weight.n, weight.k), weight.crow, weight.col, values).to_dense()
