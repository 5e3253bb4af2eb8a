"""The CPU backend for int8 in blocks (V, 4): ``sparsekern::cpu_linear_int8``, defined here and implemented in
csrc/op_words.cpp.

``y = activation((q_x q_Wᵀ) * scale_x * scales + bias)``. The rows of x are quantized in each call, each with
its own scale: ``scale_x`` is the largest ``|x|`` of the row over 127, ``q_x = round(x * (127 / largest))``,
ties to even. Products are summed in int32, exactly. A row with a NaN or an infinity gives NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekern.kernels.cpu import _core  # an extension that has libtorch's functions
from sparsekern.kernels.select import ACTIVATIONS

_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "cpu_linear_int8(Tensor x, Tensor values, Tensor scales, Tensor? bias, Tensor crow, Tensor col, int n, "
    "int k, int kernel, int activation) -> Tensor"
)


def _fake(x: Tensor, values: Tensor, scales: Tensor, *rest: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], scales.shape[0]))


torch.library.register_fake("sparsekern::cpu_linear_int8", _fake, lib=_library)

_linear = torch.ops.sparsekern.cpu_linear_int8.default


def kernels() -> tuple[str, ...]:
    """The kernels that this machine and the ISA in use allow, best first: ``("amx_int8", "avx512_vnni",
    "scalar")``."""
    return _core.quad_kernels()


def linear(
    x: Tensor,
    weight: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor],
    k: int,
    activation: str | None = None,
    kernel: str | None = None,
) -> Tensor:
    """``x`` (..., k), float32 or bfloat16, times the weight's transpose: (..., n), of x's dtype, contiguous.

    Args:
        weight: values int8 (nnz, V, 4), V a multiple of 16, in the order of torch's BSR layout; scales
            float32 (n,), what 1 stands for in each output; bias float32 (n,) or None; crow and col, int32.
        k: inputs, at most 65536.
        activation: None, "relu" or "gelu".
        kernel: one of :func:`kernels`; None takes the first that is worth while for the rows of x.

    Raises:
        ValueError: shapes or dtypes do not fit, with what came and what was expected.
    """
    n = weight[1].shape[0]
    number = _core.CHOOSE_KERNEL if kernel is None else kernels().index(kernel)
    y: Tensor = _linear(x, *weight, n, k, number, ACTIVATIONS.index(activation))
    return y


def variant(rows: int) -> str:
    """The kernel that runs so many rows of x."""
    return _core.choose_quads(rows)
