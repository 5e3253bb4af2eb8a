"""The reference: the weight made dense, then torch. Any device, dtype and block; never faster than dense."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import ConvGeometry, PackedConv, PackedWeight, memory_format_of
from sparsekern.masks import as_matrix, as_weight


class _Linear:
    def pack(self, weight: BlockSparse) -> Tensor:
        return torch.empty(0, dtype=torch.int32, device=weight.col.device)

    @staticmethod
    def _matrix(weight: PackedWeight) -> BlockSparse:
        return BlockSparse.trusted((weight.n, weight.k), weight.crow, weight.col, weight.values)

    def run(self, x: Tensor, weight: PackedWeight, activation: str | None = None) -> Tensor:
        weight.check(x)
        dense = self._matrix(weight).to_dense()
        return activate(torch.nn.functional.linear(x, dense, weight.bias), activation)

    def grad_input(self, grad: Tensor, weight: PackedWeight) -> Tensor:
        return grad @ self._matrix(weight).to_dense()

    def grad_values(self, grad: Tensor, x: Tensor, weight: PackedWeight) -> Tensor:
        return self._matrix(weight).sample(rows_of(grad).t() @ rows_of(x))

    def variant(self, rows: int, weight: PackedWeight) -> str:
        return "dense"


class _Conv2d:
    def pack(self, weight: BlockSparse, geometry: ConvGeometry) -> Tensor:
        return linear.pack(weight)

    @staticmethod
    def _matrix(weight: PackedConv) -> BlockSparse:
        return BlockSparse.trusted(weight.geometry.matrix_shape, weight.crow, weight.col, weight.values)

    def run(
        self,
        x: Tensor,
        weight: PackedConv,
        activation: str | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        weight.check(x, residual)
        y = conv2d_of(x, weight, activation, residual)
        return y.contiguous(memory_format=memory_format_of(x))

    def gradients(
        self, grad: Tensor, x: Tensor, weight: PackedConv, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """torch's own, of the dense convolution. It knows their derivatives too."""
        g, matrix = weight.geometry, self._matrix(weight)
        padded, padding = _padded(x, g)
        to_padded, to_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            padded,
            as_weight(matrix.to_dense(), g.weight_shape, matrix.block),
            None,
            (g.stride_h, g.stride_w),
            padding,
            (g.dilation_h, g.dilation_w),
            False,
            (0, 0),
            g.groups,
            (*wanted, False),
        )
        if wanted[0] and padded is not x:
            high, wide = x.shape[2:]
            to_padded = to_padded[:, :, g.pad_top : g.pad_top + high, g.pad_left : g.pad_left + wide]
        return to_padded, matrix.sample(as_matrix(to_weight, matrix.block)) if wanted[1] else None

    def variant(self, weight: PackedConv) -> str:
        return "dense"


def conv2d_of(x: Tensor, weight: PackedConv, activation: str | None, residual: Tensor | None) -> Tensor:
    """``activation(conv(x) + bias + residual)`` of the dense weight, in torch's functions alone."""
    g, matrix = weight.geometry, _Conv2d._matrix(weight)
    dense = as_weight(matrix.to_dense(), g.weight_shape, matrix.block)
    strides, dilation = (g.stride_h, g.stride_w), (g.dilation_h, g.dilation_w)
    padded, padding = _padded(x, g)
    y = torch.nn.functional.conv2d(padded, dense, weight.bias, strides, padding, dilation, g.groups)
    return activate(y if residual is None else y + residual, activation)


def _padded(x: Tensor, g: ConvGeometry) -> tuple[Tensor, tuple[int, int]]:
    """``x``, and the zeros that torch is left to add around it; torch adds as many on either side."""
    if (g.pad_top, g.pad_left) == (g.pad_bottom, g.pad_right):
        return x, (g.pad_top, g.pad_left)
    around = (g.pad_left, g.pad_right, g.pad_top, g.pad_bottom)
    return torch.nn.functional.pad(x, around), (0, 0)


def rows_of(x: Tensor) -> Tensor:
    """``(..., k)`` to ``(m, k)``, whatever of it is zero."""
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


def activate(y: Tensor, activation: str | None) -> Tensor:
    """torch's own activation of that name; None leaves ``y`` as it is."""
    return y if activation is None else _ACTIVATIONS[activation](y)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.nn.functional.relu,
    "gelu": torch.nn.functional.gelu,
}


linear = _Linear()
conv2d = _Conv2d()
