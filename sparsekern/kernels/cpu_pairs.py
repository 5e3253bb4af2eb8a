"""The CPU backend for bfloat16 in blocks (V, 2): ``sparsekern::cpu_linear_pairs``, defined here and
implemented in csrc/op_words.cpp. Two inputs of an output lie side by side, as the instructions for
bfloat16 take them.

Numbers below 2^-126 count as zero, in x and weights too: the instructions are made so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsekern.kernels import reference
from sparsekern.kernels.cpu import _core, features  # an extension that has libtorch's functions
from sparsekern.kernels.select import ACTIVATIONS, PackedWeight

_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "cpu_linear_pairs(Tensor x, Tensor values, Tensor? bias, Tensor crow, Tensor col, Tensor index, int n, "
    "int k, int kernel, int activation) -> Tensor"
)


def _fake(x: Tensor, *packed: Any) -> Tensor:
    return PackedWeight(*packed[:-2]).empty_output(x)


torch.library.register_fake("sparsekern::cpu_linear_pairs", _fake, lib=_library)

_linear = torch.ops.sparsekern.cpu_linear_pairs.default


class _Linear(reference._Linear):
    """Kernels best first, of which the first that is worth while for the rows of x runs; ``kernel``, a name
    in ``cpu.features()``, forces one. They need no index, and gradients are the reference's."""

    def __init__(self, kernel: str | None = None) -> None:
        self.kernel = kernel

    def run(self, x: Tensor, weight: PackedWeight, activation: str | None = None) -> Tensor:
        kernel = _core.CHOOSE_KERNEL if self.kernel is None else features().index(self.kernel)
        y: Tensor = _linear(x, *weight, kernel, ACTIVATIONS.index(activation))
        return y

    def variant(self, rows: int, weight: PackedWeight) -> str:
        """The C++ kernel that runs so many rows of x."""
        return self.kernel or _core.choose_pairs(rows)


linear = _Linear()
