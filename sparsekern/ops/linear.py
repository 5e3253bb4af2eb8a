"""``sparsekern::linear``: y = x Wᵀ + b with a block-sparse W.

The op takes the weight's tensors one by one, since custom ops know no other types, and the name of the kernel
that was chosen when the layer was made. It is the only boundary between a layer and its kernel.

Where nobody traces the call, torch's Python layer for registered ops is left out, which costs several times
an ``F.linear`` (docs/measured.md, "What a call costs"): without a gradient wanted the kernel's backend is
called as it is, and its own op is the boundary; with one, a ``torch.autograd.Function`` records it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import Plan
from sparsekern.kernels.reference import activate, rows_of
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.ops.call import autocast_dtype, is_plain, is_traced, is_transformed, needs_op, recorded

# ---- schema

_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "linear(Tensor x, Tensor values, Tensor? bias, Tensor crow, Tensor col, Tensor index, int n, int k, "
    "str kernel) -> Tensor"
)


# ---- forward: real and fake


def _forward(x: Tensor, *packed: Any) -> Tensor:
    return BY_NAME[packed[-1]].backend().run(x, PackedWeight(*packed[:-1]))


def _fake(x: Tensor, *packed: Any) -> Tensor:
    return PackedWeight(*packed[:-1]).empty_output(x)


_library.impl("linear", _forward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("sparsekern::linear", _fake, lib=_library)


# ---- backward: the backend's own; only stored positions of the weight get a gradient


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, bias, crow, col, index, *ctx.shape, ctx.kernel = inputs
    ctx.save_for_backward(x, values, crow, col, index)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, values, crow, col, index = ctx.saved_tensors
    weight = PackedWeight(values, None, crow, col, index, *ctx.shape)
    # A derivative of this derivative is wanted: torch knows that of the reference's dense products.
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    backend = BY_NAME["reference_linear" if again else ctx.kernel].backend()
    to_x = backend.grad_input(grad, weight) if ctx.needs_input_grad[0] else None
    to_values = backend.grad_values(grad, x, weight) if ctx.needs_input_grad[1] else None
    to_bias = rows_of(grad).sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
    return to_x, to_values, to_bias, None, None, None, None, None, None


torch.library.register_autograd("sparsekern::linear", _backward, setup_context=_save, lib=_library)
_differentiable = torch.ops.sparsekern.linear.default
_recorded = recorded(_forward, _save, _backward)


# ---- public functions


def linear(
    x: Tensor, weight: BlockSparse, bias: Tensor | None, plan: Plan, activation: str | None = None
) -> Tensor:
    """``activation(x Wᵀ + bias)`` on the kernel of ``plan``.

    Args:
        x: ``(..., k)``, of the weight's dtype; under autocast any floating dtype.
        weight: ``(n, k)``.
        bias: ``(n,)`` or None.
        plan: made from this weight by :func:`sparsekern.kernels.make_plan`.
        activation: None, "relu" or "gelu"; where no gradient is wanted it is applied by the kernel itself.

    Returns:
        ``(..., n)``, contiguous. Under autocast the sum is made in the weight's dtype and returned in
        autocast's, as ``F.linear`` returns it.

    Raises:
        ValueError: shapes or dtypes do not fit, with what came and what was expected.
    """
    packed = PackedWeight(weight.values, bias, weight.crow, weight.col, plan.index, *weight.shape)
    return linear_packed(x, packed, plan.kernel.name, activation)


def linear_packed(x: Tensor, weight: PackedWeight, kernel: str, activation: str | None = None) -> Tensor:
    """:func:`linear` for a layer, which holds the tensors of its weight one by one."""
    if is_plain(x, weight.values, weight.bias):
        return BY_NAME[kernel].backend().run(x, weight, activation)
    autocast = autocast_dtype(x, weight.values)
    if autocast is not None:
        with torch.autocast(x.device.type, enabled=False):
            return linear_packed(x.to(weight.values.dtype), weight, kernel, activation).to(autocast)
    if is_transformed():
        matrix = BlockSparse.trusted((weight.n, weight.k), weight.crow, weight.col, weight.values)
        return activate(torch.nn.functional.linear(x, matrix.to_dense(), weight.bias), activation)
    if needs_op(x, weight.values, weight.bias):
        y: Tensor = (_differentiable if is_traced() else _recorded)(x, *weight, kernel)
        return activate(y, activation)
    return BY_NAME[kernel].backend().run(x, weight, activation)
