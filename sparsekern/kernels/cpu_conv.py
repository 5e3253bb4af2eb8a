"""The CPU backend for convolutions: ``sparsekern::cpu_conv2d``, defined here and implemented in
csrc/op_conv2d.cpp.

The op has no gradient of its own; ``sparsekern::conv2d`` (ops/conv2d.py) has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import reference
from sparsekern.kernels.cpu import _core  # an extension that has libtorch's functions
from sparsekern.kernels.select import ACTIVATIONS, ConvGeometry, PackedConv, memory_format_of

_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "cpu_conv2d(Tensor x, Tensor values, Tensor? bias, Tensor? residual, Tensor crow, Tensor col, "
    "Tensor index, int out, int in_, int kh, int kw, int stride_h, int stride_w, int pad_top, int pad_left, "
    "int pad_bottom, int pad_right, int dilation_h, int dilation_w, int kernel, int activation) -> Tensor"
)


def _fake(
    x: Tensor, values: Tensor, bias: Tensor | None, residual: Tensor | None, *indices_and_numbers: Any
) -> Tensor:
    crow, col, index, *numbers = indices_and_numbers
    geometry = ConvGeometry._make((*numbers[:-2], 1))
    y = PackedConv(values, bias, crow, col, index, geometry).empty_output(x, residual)
    return y.contiguous(memory_format=_layout_of(x))


def _layout_of(x: Tensor) -> torch.memory_format:
    """How the op reads ``x``, and writes: where it lies both ways, as of one channel, by default."""
    return torch.contiguous_format if x.is_contiguous() else memory_format_of(x)


torch.library.register_fake("sparsekern::cpu_conv2d", _fake, lib=_library)

_conv2d = torch.ops.sparsekern.cpu_conv2d.default


class _Conv2d(reference._Conv2d):
    """Blocks (V, 1), and (1, S), which are read as S single weights. Kernels by the height of the blocks;
    ``kernel``, a name in ``_core.CONV_KERNELS``, forces one. Gradients are the reference's."""

    def __init__(self, kernel: str | None = None) -> None:
        self.kernel = kernel

    def pack(self, weight: BlockSparse, geometry: ConvGeometry) -> Tensor:
        """Where in the input the weights of each output lie; what csrc/cpu/panel_index.h describes."""
        crow, col, (high, wide) = weight.crow, weight.col, weight.block
        if col.device.type != "cpu":
            return super().pack(weight, geometry)
        if wide > 1:  # an output's blocks are stored in order, and so are the weights in them
            crow = crow * wide
            col = (col[:, None] * wide + torch.arange(wide, dtype=col.dtype, device=col.device)).flatten()
        g = geometry
        words = _core.conv_index(crow.numpy(), col.numpy(), g.out, g.in_, g.kh, g.kw, high)
        return torch.from_numpy(words).clone()  # numpy's memory is not aligned to cache lines

    def run(
        self,
        x: Tensor,
        weight: PackedConv,
        activation: str | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        try:
            return self._run(x, weight, activation, residual)
        except (RuntimeError, ValueError, IndexError):
            weight.check(x, residual)  # in torch's words; asked before, it would cost a tenth of a small call
            raise

    def _run(self, x: Tensor, weight: PackedConv, activation: str | None, residual: Tensor | None) -> Tensor:
        values, bias, crow, col, index, geometry = weight
        if values.shape[2] > 1:  # the index has every single weight, in the order of the values
            values, crow, col = values.view(-1, 1, 1), crow[:0], col[:0]
        wanted = layout = memory_format_of(x)
        if wanted is torch.channels_last:
            x = x.contiguous(memory_format=wanted)
            layout = _layout_of(x)
        else:
            x = x.contiguous()
        y: Tensor = _conv2d(
            x,
            values,
            bias,
            None if residual is None else residual.contiguous(memory_format=layout),
            crow,
            col,
            index,
            *geometry[:-1],
            _core.CHOOSE_KERNEL if self.kernel is None else _core.CONV_KERNELS.index(self.kernel),
            ACTIVATIONS.index(activation),
        )
        return y if layout is wanted else y.contiguous(memory_format=wanted)

    def variant(self, weight: PackedConv) -> str:
        """The C++ kernel that runs blocks of this height."""
        return self.kernel or _core.choose_conv2d(weight.values.shape[1])


conv2d = _Conv2d()
