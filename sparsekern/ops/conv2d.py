"""``sparsekern::conv2d``: y = conv(x) + b + residual with a block-sparse weight.

As in :mod:`sparsekern.ops.linear`, the op is the boundary between a layer and its kernel where a gradient is
wanted; otherwise the kernel's backend is called as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import Plan
from sparsekern.kernels.reference import activate, conv2d_of
from sparsekern.kernels.select import ConvGeometry, PackedConv
from sparsekern.kernels.table import BY_NAME
from sparsekern.ops.call import autocast_dtype, is_plain, is_traced, is_transformed, needs_op, recorded

# ---- schema

_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "conv2d(Tensor x, Tensor values, Tensor? bias, Tensor? residual, Tensor crow, Tensor col, Tensor index, "
    "int[] geometry, str kernel) -> Tensor"
)


# ---- forward: real and fake


def _packed(values: Tensor, bias: Tensor | None, *rest: Any) -> PackedConv:
    crow, col, index, geometry = rest
    return PackedConv(values, bias, crow, col, index, ConvGeometry(*geometry))


def _forward(x: Tensor, values: Tensor, bias: Tensor | None, residual: Tensor | None, *rest: Any) -> Tensor:
    *indices, kernel = rest
    return BY_NAME[kernel].conv_backend().run(x, _packed(values, bias, *indices), None, residual)


def _fake(x: Tensor, values: Tensor, bias: Tensor | None, residual: Tensor | None, *rest: Any) -> Tensor:
    return _packed(values, bias, *rest[:-1]).empty_output(x, residual)


_library.impl("conv2d", _forward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("sparsekern::conv2d", _fake, lib=_library)


# ---- backward: the backend's own; only stored positions of the weight get a gradient


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, _, _, crow, col, index, ctx.geometry, ctx.kernel = inputs
    ctx.save_for_backward(x, values, crow, col, index)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, values, crow, col, index = ctx.saved_tensors
    weight = _packed(values, None, crow, col, index, ctx.geometry)
    wants_x, wants_values, wants_bias, wants_residual, *_ = ctx.needs_input_grad
    # A derivative of this derivative is wanted: torch knows that of the reference's dense products.
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    backend = BY_NAME["reference_conv2d" if again else ctx.kernel].conv_backend()
    to_x, to_values = None, None
    if wants_x or wants_values:
        to_x, to_values = backend.gradients(grad, x, weight, (wants_x, wants_values))
    to_bias = grad.sum((0, 2, 3)) if wants_bias else None
    return to_x, to_values, to_bias, grad if wants_residual else None, None, None, None, None, None


torch.library.register_autograd("sparsekern::conv2d", _backward, setup_context=_save, lib=_library)
_differentiable = torch.ops.sparsekern.conv2d.default
_recorded = recorded(_forward, _save, _backward)


# ---- public functions


def conv2d(
    x: Tensor,
    weight: BlockSparse,
    bias: Tensor | None,
    plan: Plan,
    geometry: ConvGeometry,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(conv(x) + bias + residual)`` on the kernel of ``plan``.

    Args:
        x: ``(batch, in_, height, width)`` or ``(in_, height, width)``, of the weight's dtype; under autocast
            any floating dtype.
        weight: ``(out, k)``, k of the filters (in_ / groups, kh, kw) laid out in a line.
        bias: ``(out,)`` or None.
        plan: made from this weight and geometry by :func:`sparsekern.kernels.make_plan`.
        geometry: strides, padding and the rest.
        activation: None, "relu" or "gelu"; where no gradient is wanted it is applied by the kernel itself.
        residual: what is added before the activation, of the output's shape, or None.

    Returns:
        ``(batch, out, height, width)``, or without ``batch`` as ``x``; it lies in memory as ``x`` does, by
        default or channels last. Under autocast the sum is made in the weight's dtype and returned in
        autocast's.

    Raises:
        RuntimeError: shapes or dtypes do not fit, in the words of ``torch.nn.functional.conv2d``.
    """
    packed = PackedConv(weight.values, bias, weight.crow, weight.col, plan.index, geometry)
    return conv2d_packed(x, packed, plan.kernel.name, activation, residual)


def conv2d_packed(
    x: Tensor,
    weight: PackedConv,
    kernel: str,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """:func:`conv2d` for a layer, which holds the tensors of its weight one by one."""
    values, bias, crow, col, index, geometry = weight
    if x.dim() == 4 and is_plain(x, values, bias, residual):
        return BY_NAME[kernel].conv_backend().run(x, weight, activation, residual)
    autocast = autocast_dtype(x, values)
    if autocast is not None:
        with torch.autocast(x.device.type, enabled=False):
            residual = None if residual is None else residual.to(values.dtype)
            return conv2d_packed(x.to(values.dtype), weight, kernel, activation, residual).to(autocast)
    if x.dim() == 3:
        residual = None if residual is None else residual.unsqueeze(0)
        return conv2d_packed(x.unsqueeze(0), weight, kernel, activation, residual).squeeze(0)
    if is_transformed():
        weight.check(x, residual)
        return conv2d_of(x, weight, activation, residual)
    if needs_op(x, values, bias, residual):
        call = _differentiable if is_traced() else _recorded
        y: Tensor = call(x, values, bias, residual, crow, col, index, geometry, kernel)
        return activate(y, activation)
    return BY_NAME[kernel].conv_backend().run(x, weight, activation, residual)


def conv1d_packed(
    x: Tensor,
    weight: PackedConv,
    kernel: str,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """:func:`conv2d_packed` of lines, (batch, in_, length) or (in_, length), taken as maps of one row.
    Contiguous, as what ``torch.nn.functional.conv1d`` gives; errors are in its words too."""
    weight.check_line(x, residual)
    residual = None if residual is None else residual.unsqueeze(-2)
    return conv2d_packed(x.contiguous().unsqueeze(-2), weight, kernel, activation, residual).squeeze(-2)
