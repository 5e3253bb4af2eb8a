"""The CPU backend for convolutions in bfloat16 and blocks (V, 2): ``sparsekern::cpu_conv2d_pairs``, defined
here and implemented in csrc/op_words.cpp. A block is V outputs by two input channels at one place of the
kernel, which lie side by side in an image channels last: of other images a copy is made.

What cpu_pairs.py says of small numbers holds here too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsekern.kernels import reference
from sparsekern.kernels.cpu import _core, features  # an extension that has libtorch's functions
from sparsekern.kernels.select import ACTIVATIONS, ConvGeometry, PackedConv, memory_format_of

_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "cpu_conv2d_pairs(Tensor x, Tensor values, Tensor? bias, Tensor crow, Tensor col, int out, int in_, "
    "int kh, int kw, int stride_h, int stride_w, int pad_top, int pad_left, int pad_bottom, int pad_right, "
    "int dilation_h, int dilation_w, int kernel, int activation) -> Tensor"
)


def _fake(x: Tensor, values: Tensor, bias: Tensor | None, crow: Tensor, col: Tensor, *numbers: Any) -> Tensor:
    geometry = ConvGeometry._make((*numbers[:-2], 1))
    return x.new_empty((x.shape[0], *geometry.output_size(x.shape[1], x.shape[2]), geometry.out))


torch.library.register_fake("sparsekern::cpu_conv2d_pairs", _fake, lib=_library)

_conv2d = torch.ops.sparsekern.cpu_conv2d_pairs.default


class _Conv2d(reference._Conv2d):
    """Kernels best first, of which the first that is worth while for the output positions runs; ``kernel``, a
    name in ``cpu.features()``, forces one. They need no index, and gradients are the reference's."""

    def __init__(self, kernel: str | None = None) -> None:
        self.kernel = kernel

    def run(
        self,
        x: Tensor,
        weight: PackedConv,
        activation: str | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        weight.check(x, residual)
        values, bias, crow, col, _, geometry = weight
        kernel = _core.CHOOSE_KERNEL if self.kernel is None else features().index(self.kernel)
        at_once = None if residual is not None else activation
        y: Tensor = _conv2d(
            x.permute(0, 2, 3, 1).contiguous(),
            values,
            bias,
            crow,
            col,
            *geometry[:-1],
            kernel,
            ACTIVATIONS.index(at_once),
        ).permute(0, 3, 1, 2)
        if residual is not None:
            y = reference.activate(y + residual, activation)
        return y.contiguous(memory_format=memory_format_of(x))

    def variant(self, weight: PackedConv) -> str:
        """The C++ kernel that runs all but the fewest output positions."""
        return self.kernel or features()[0]


conv2d = _Conv2d()
