"""``sparsekern::linear``: y = x Wᵀ + b with a block-sparse W.

The op takes the weight's tensors one by one, since custom ops know no other types, and the name of the kernel
that was chosen when the layer was made. It is the only boundary between a layer and its kernel.

There are two entries with one schema. ``sparsekern::linear`` is differentiable.
``sparsekern::linear_no_grad`` is what ``linear`` calls when no gradient is wanted: torch's Python autograd
layer costs a call two to four times an ``F.linear`` (docs/measured.md, "What a call costs"), and the second
entry does not have it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import Plan
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.table import BY_NAME

# ---- schema and checks

_library = torch.library.Library("sparsekern", "DEF")  # type: ignore[no-untyped-call]
_ARGUMENTS = (
    "Tensor x, Tensor values, Tensor? bias, Tensor crow, Tensor col, Tensor index, int[2] shape, str kernel"
)


def _check(x: Tensor, values: Tensor, bias: Tensor | None, n: int, k: int) -> None:
    shape, dtype = x.shape, values.dtype
    if not shape or shape[-1] != k:
        raise ValueError(f"x: expected (..., {k}) for a weight of shape ({n}, {k}), got {tuple(shape)}")
    if x.dtype != dtype:
        raise ValueError(f"x is {x.dtype}, the weight {dtype}; expected one dtype")
    if bias is not None and (bias.dtype != dtype or bias.shape != (n,)):
        raise ValueError(f"bias: expected {dtype} ({n},), got {bias.dtype} {tuple(bias.shape)}")


# ---- forward: real and fake


def _forward(x: Tensor, values: Tensor, bias: Tensor | None, *pattern: Any) -> Tensor:
    crow, col, index, (n, k), kernel = pattern
    _check(x, values, bias, n, k)
    run = BY_NAME[kernel].backend().run
    if x.dim() == 2:
        return run(x, PackedWeight(values, bias, crow, col, index, n, k))
    y = run(x.reshape(-1, k), PackedWeight(values, bias, crow, col, index, n, k))
    return y.view(*x.shape[:-1], n)


def _fake(x: Tensor, values: Tensor, bias: Tensor | None, *pattern: Any) -> Tensor:
    _, _, _, (n, k), _ = pattern
    _check(x, values, bias, n, k)
    return x.new_empty((*x.shape[:-1], n))


for _name in ("linear", "linear_no_grad"):
    _library.define(f"{_name}({_ARGUMENTS}) -> Tensor")  # type: ignore[no-untyped-call]
    _library.impl(_name, _forward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"sparsekern::{_name}", _fake, lib=_library)


# ---- backward: plain dense products; only stored positions of the weight get a gradient


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, bias, crow, col, _, (n, k), _ = inputs
    ctx.save_for_backward(x, values, crow, col)
    ctx.shape, ctx.has_bias = (n, k), bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, values, crow, col = ctx.saved_tensors
    n, k = ctx.shape
    weight = BlockSparse.trusted((n, k), crow, col, values)
    rows = grad.reshape(-1, n)
    to_x = grad @ weight.to_dense() if ctx.needs_input_grad[0] else None
    to_values = weight.sample(rows.t() @ x.reshape(-1, k)) if ctx.needs_input_grad[1] else None
    to_bias = rows.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
    return to_x, to_values, to_bias, None, None, None, None, None


torch.library.register_autograd("sparsekern::linear", _backward, setup_context=_save, lib=_library)


# ---- public functions

_differentiable = torch.ops.sparsekern.linear.default
_no_grad = torch.ops.sparsekern.linear_no_grad.default


class Pattern(NamedTuple):
    """Where a weight's values stand, and the kernel that reads them: the op's arguments behind ``bias``."""

    crow: Tensor
    col: Tensor
    plan_index: Tensor
    shape: tuple[int, int]
    kernel: str


def linear(x: Tensor, weight: BlockSparse, bias: Tensor | None, plan: Plan) -> Tensor:
    """``x Wᵀ + bias`` on the kernel of ``plan``.

    Args:
        x: ``(..., k)``, of the weight's dtype; under autocast any floating dtype.
        weight: ``(n, k)``.
        bias: ``(n,)`` or None.
        plan: made from this weight by :func:`sparsekern.kernels.make_plan`.

    Returns:
        ``(..., n)``, contiguous. Under autocast the sum is made in the weight's dtype and returned in
        autocast's, as ``F.linear`` returns it.

    Raises:
        ValueError: shapes or dtypes do not fit, with what came and what was expected.
    """
    pattern = Pattern(weight.crow, weight.col, plan.index, weight.shape, plan.kernel.name)
    return linear_of_values(x, weight.values, bias, pattern)


def linear_of_values(x: Tensor, values: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """:func:`linear` for a layer, which holds the tensors of its weight one by one."""
    if torch.is_autocast_enabled(x.device.type):
        autocast = torch.get_autocast_dtype(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            return linear_of_values(x.to(values.dtype), values, bias, pattern).to(autocast)
    wanted = torch.is_grad_enabled() and (
        x.requires_grad or values.requires_grad or (bias is not None and bias.requires_grad)
    )
    y: Tensor = (_differentiable if wanted else _no_grad)(x, values, bias, *pattern)
    return y
