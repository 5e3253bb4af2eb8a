"""How one kernel for convolutions is checked against the truth; test_the_tests.py runs the same checks on
kernels broken on purpose."""

from __future__ import annotations

import torch
import truth
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels import KERNELS, Choice, Kernel, Problem, cpu_conv, cpu_conv_pairs, make_plan
from sparsekern.kernels.select import ConvBackend, PackedConv
from sparsekern.kernels.table import BY_NAME
from sparsekern.masks import as_matrix
from sparsekern.nn import SparseConv2d
from sparsekern.nn.layer import problem_of
from sparsekern.ops import conv2d

# Every kernel of the C++ half by itself, whatever would be chosen.
panels, rows = map(cpu_conv._Conv2d, ("panels", "rows"))
amx_bf16, avx512_bf16 = map(cpu_conv_pairs._Conv2d, ("amx_bf16", "avx512_bf16"))


def _variant(name: str, tallest: int, widest: int) -> Kernel:
    def refuse(problem: Problem) -> str | None:
        too_large = problem.block[0] > tallest or problem.block[1] > widest
        return BY_NAME["cpu_conv2d"].refuse(problem) or ("too large a block" if too_large else None)

    return Kernel(f"cpu_conv2d:{name}", "conv2d", f"conv_checks:{name}", refuse)


def _pairs(feature: str) -> Kernel:
    def refuse(problem: Problem) -> str | None:
        lacks = None if feature in problem.features else f"this CPU lacks {feature}"
        return BY_NAME["cpu_conv2d_pairs"].refuse(problem) or lacks

    return Kernel(f"cpu_conv2d_pairs:{feature}", "conv2d", f"conv_checks:{feature}", refuse)


VARIANTS = (
    _variant("panels", 3, 2**31),
    _variant("rows", 2**31, 1),
    _pairs("amx_bf16"),
    _pairs("avx512_bf16"),
)
CONV2D = tuple(kernel for kernel in KERNELS if kernel.op == "conv2d")
ALL = (*VARIANTS, *CONV2D)


class Conv:
    """A case's dense layer, and the same weight in its format."""

    def __init__(self, case: truth.ConvCase, dtype: torch.dtype, bias: bool = True) -> None:
        self.dense = case.conv(dtype, bias)
        self.weight = BlockSparse.from_dense(as_matrix(self.dense.weight.detach(), case.block), case.block)
        self.geometry = SparseConv2d.geometry_of(self.dense)

    def kernels(self) -> list[Kernel]:
        problem = problem_of(self.weight, self.geometry)
        return [kernel for kernel in ALL if kernel.refuse(problem) is None]

    def packed(self, backend: ConvBackend) -> PackedConv:
        index, weight = backend.pack(self.weight, self.geometry), self.weight
        return PackedConv(weight.values, self.dense.bias, weight.crow, weight.col, index, self.geometry)

    def inputs(self, case: truth.ConvCase, batch: int) -> Tensor:
        """Normal numbers, by default in memory."""
        return torch.randn(batch, case.in_, *case.map).to(self.weight.values.dtype)

    def residual(self, x: Tensor) -> Tensor:
        """Normal numbers of the output's shape."""
        size = self.geometry.output_size(*x.shape[2:])
        return torch.randn(x.shape[0], self.geometry.out, *size).to(x.dtype)


def lying_as(x: Tensor, layout: str) -> Tensor:
    """The same numbers elsewhere in memory; around what is not dense lies NaN."""
    if layout == "default":
        return x.contiguous()
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    if layout == "every other column":
        around = torch.full((batch, channels, height, 2 * width + 1), float("nan"), dtype=x.dtype)
        view = around[..., 1::2]
    else:
        assert layout == "a corner of channels last"
        around = torch.full((batch + 2, height + 3, width + 4, channels + 1), float("nan"), dtype=x.dtype)
        view = around[1:-1, 1:-2, 2:-2, 1:].permute(0, 3, 1, 2)
    view.copy_(x)
    return view


def check_conv(
    backend: ConvBackend,
    case: truth.ConvCase,
    dtype: torch.dtype,
    batch: int,
    layout: str = "default",
    terms: tuple[bool, bool] = (True, False),
) -> None:
    """``terms``: with a bias, with a residual."""
    conv = Conv(case, dtype, bias=terms[0])
    check_outputs(backend, conv, lying_as(conv.inputs(case, batch), layout), terms[1])


def check_outputs(backend: ConvBackend, conv: Conv, x: Tensor, with_residual: bool) -> None:
    residual = conv.residual(x) if with_residual else None
    got = backend.run(x, conv.packed(backend), None, residual)
    assert got.dtype is x.dtype
    want = truth.conv2d(conv.dense, x, residual)
    assert got.is_contiguous(memory_format=_format_of(x)), "the output lies as the input does not"
    truth.assert_close(got, want, truth.conv_bound(conv.dense, x, residual, x.dtype))


def _format_of(x: Tensor) -> torch.memory_format:
    # What torch gives: no sum is made of a kernel of one weight.
    y = torch.nn.functional.conv2d(x.float(), torch.ones(2, x.shape[1], 1, 1))
    last = y.stride(1) == 1 and not y.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def check_gradients(kernel: Kernel, case: truth.ConvCase, dtype: torch.dtype, batch: int) -> None:
    """Gradients of input, values, bias and residual for a random gradient of the output, against autograd of
    the truth."""
    conv = Conv(case, dtype)
    x, weight, bias = conv.inputs(case, batch), conv.weight, conv.dense.bias
    residual = conv.residual(x)
    grad = torch.randn(residual.shape).to(dtype)
    leaves = [t.clone().requires_grad_() for t in (x, weight.values, bias, residual)]
    sparse = BlockSparse.trusted(weight.shape, weight.crow, weight.col, leaves[1])
    plan = make_plan(weight, Choice(kernel, ()), conv.geometry)
    conv2d(leaves[0], sparse, leaves[2], plan, conv.geometry, residual=leaves[3]).backward(grad)
    to_x, to_values, to_bias, to_residual = (leaf.grad for leaf in leaves)
    assert to_x is not None and to_values is not None and to_bias is not None
    assert to_residual is not None and torch.equal(to_residual, grad)
    want_x, want_weight = derivatives(conv.dense, x, grad)
    room_x, room_weight = (
        truth.off_by(room, steps, dtype)
        for room, steps in zip(
            derivatives(conv.dense, x.abs(), grad.abs(), absolute=True),
            (conv.weight.shape[0] * conv.geometry.kh * conv.geometry.kw + 2, grad[:, 0].numel() + 2),
            strict=True,
        )
    )
    truth.assert_close(to_x, want_x, room_x)
    up = grad.double()
    spread = truth.off_by(up.abs().sum((0, 2, 3)), grad[:, 0].numel() + 2, dtype)
    truth.assert_close(to_bias, up.sum((0, 2, 3)), spread)
    dense = BlockSparse.trusted(weight.shape, weight.crow, weight.col, to_values.double()).to_dense()
    want = torch.where(weight.mask(), as_matrix(want_weight, weight.block), 0.0)
    truth.assert_close(dense, want, as_matrix(room_weight, weight.block))


def derivatives(conv: nn.Conv2d, x: Tensor, grad: Tensor, absolute: bool = False) -> tuple[Tensor, Tensor]:
    """Those of x and of the weight, in float64, as if the weight were the ``absolute`` of itself."""
    weight = conv.weight.double().abs() if absolute else conv.weight.double()
    leaves = (x.double().requires_grad_(), weight.requires_grad_())
    y = conv._conv_forward(*leaves, None)
    return torch.autograd.grad(y, leaves, grad.double())
