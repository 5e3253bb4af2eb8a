"""The kernel checks must fail on kernels that are broken on purpose, at every dtype."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
import truth
from conv_checks import check_conv
from conv_checks import check_gradients as check_conv_gradients
from kernel_checks import check_bits, check_forward, check_gradients
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels.reference import conv2d as conv_reference
from sparsekern.kernels.reference import linear as reference
from sparsekern.kernels.select import ConvGeometry, PackedConv, PackedWeight
from sparsekern.kernels.table import BY_NAME

CASE = truth.Case(100, 77, (16, 1), 0.9)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Broken:
    """The reference with one thing wrong."""

    def __init__(
        self,
        breaks: Callable[[Tensor, PackedWeight], tuple[Tensor, PackedWeight]],
        after: Callable[[Tensor], Tensor] = lambda y: y,
    ) -> None:
        self.breaks, self.after = breaks, after

    def pack(self, weight: BlockSparse) -> Tensor:
        return reference.pack(weight)

    def run(self, x: Tensor, weight: PackedWeight, activation: str | None = None) -> Tensor:
        return self.after(reference.run(*self.breaks(x, weight)))


def _drop_block(x: Tensor, w: PackedWeight) -> tuple[Tensor, PackedWeight]:
    values = w.values.clone()
    values[len(values) // 2] = 0
    return x, w._replace(values=values)


def _drop_one_weight(x: Tensor, w: PackedWeight) -> tuple[Tensor, PackedWeight]:
    values = w.values.clone()
    values[len(values) // 2, 7] = 0
    return x, w._replace(values=values)


def _neighbour_column(x: Tensor, w: PackedWeight) -> tuple[Tensor, PackedWeight]:
    return x.roll(1, dims=1), w


def _forget_bias(x: Tensor, w: PackedWeight) -> tuple[Tensor, PackedWeight]:
    return x, w._replace(bias=None)


def _same(x: Tensor, w: PackedWeight) -> tuple[Tensor, PackedWeight]:
    return x, w


def _skip_last_row(y: Tensor) -> Tensor:
    return torch.cat([y[:-1], torch.zeros_like(y[-1:])])


def _skip_tail_outputs(y: Tensor) -> Tensor:
    return torch.cat([y[:, :96], torch.zeros_like(y[:, 96:])], dim=1)


def _slightly_off(y: Tensor) -> Tensor:
    return y * (1 + 1e-2)


BROKEN = {
    "drops a block": Broken(_drop_block),
    "drops one weight": Broken(_drop_one_weight),
    "reads the neighbouring column": Broken(_neighbour_column),
    "forgets the bias": Broken(_forget_bias),
    "skips the last row": Broken(_same, _skip_last_row),
    "skips the ragged tail": Broken(_same, _skip_tail_outputs),
    "is off by one percent": Broken(_same, _slightly_off),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_kernel_is_caught(fault: str, dtype: torch.dtype) -> None:
    with pytest.raises(AssertionError, match="off by"):
        check_forward(BROKEN[fault], CASE, dtype, batch=17, with_bias=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_whole_kernel_is_not_caught(dtype: torch.dtype) -> None:
    check_forward(Broken(_same), CASE, dtype, batch=17, with_bias=True)


def tear(op: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks the gradient of the op's argument of that number, in one element."""

    class Torn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, tensor: Tensor) -> Tensor:
            return tensor.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            torn = grad.clone()
            torn.view(-1)[0] += torn.abs().max()
            return torn

    op_module = importlib.import_module(f"sparsekern.ops.{op}")  # the package's attribute is the function
    real = op_module._recorded
    monkeypatch.setattr(
        op_module, "_recorded", lambda *args: real(*args[:at], Torn.apply(args[at]), *args[at + 1 :])
    )


@pytest.mark.parametrize("which", ["input", "values", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_broken_gradient_is_caught(which: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    tear("linear", {"input": 0, "values": 1, "bias": 2}[which], monkeypatch)
    kernel = BY_NAME["cpu_linear" if dtype is torch.float32 else "reference_linear"]
    with pytest.raises(AssertionError, match="off by"):
        check_gradients(kernel, CASE, dtype, batch=17)


def test_sums_in_as_many_parts_as_there_are_threads_are_caught() -> None:
    x = torch.rand(64, 8)

    def product() -> Tensor:
        return torch.stack([part.sum(0) for part in x.chunk(torch.get_num_threads())]).sum(0)

    with pytest.raises(AssertionError, match="2 threads"):
        check_bits(product)


def test_one_call_of_a_hundred_is_caught() -> None:
    ones = iter([1.0] * 100 + [1.0 + 2**-23])
    with pytest.raises(AssertionError, match="8 threads"):
        check_bits(lambda: torch.tensor(next(ones)))


# ---- convolutions

CONV = truth.ConvCase(100, 7, (3, 3), (16, 1), 0.8, map=(9, 8), stride=(2, 1), padding=(1, 2))


class BrokenConv:
    """The reference with one thing wrong."""

    def __init__(
        self,
        breaks: Callable[[PackedConv], PackedConv] = lambda packed: packed,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda y: y,
        adds: bool = True,
    ) -> None:
        self.breaks, self.before, self.after, self.adds = breaks, before, after, adds

    def pack(self, weight: BlockSparse, geometry: ConvGeometry) -> Tensor:
        return conv_reference.pack(weight, geometry)

    def run(
        self, x: Tensor, packed: PackedConv, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        added = residual if self.adds else None
        y = self.after(conv_reference.run(self.before(x), self.breaks(packed), None, added))
        layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        return y.contiguous(memory_format=layout)


def _lose(*at: int) -> Callable[[PackedConv], PackedConv]:
    def breaks(packed: PackedConv) -> PackedConv:
        values = packed.values.clone()
        values[(len(values) // 2, *at)] = 0
        return packed._replace(values=values)

    return breaks


def _bend(**changes: int) -> Callable[[PackedConv], PackedConv]:
    return lambda packed: packed._replace(geometry=packed.geometry._replace(**changes))


def _zero(*at: slice | int) -> Callable[[Tensor], Tensor]:
    def after(y: Tensor) -> Tensor:
        y = y.clone()
        y[at] = 0
        return y

    return after


EVERY = slice(None)
BROKEN_CONVS = {
    "drops a block": BrokenConv(_lose()),
    "drops one weight": BrokenConv(_lose(7)),
    "reads the neighbouring column": BrokenConv(before=lambda x: x.roll(1, 3)),
    "reads the neighbouring channel": BrokenConv(before=lambda x: x.roll(1, 1)),
    "reads rows upside down": BrokenConv(before=lambda x: x.flip(2)),
    "pads on the wrong side": BrokenConv(_bend(pad_left=3, pad_right=1)),
    "pads with something": BrokenConv(
        _bend(pad_left=0, pad_right=0), lambda x: torch.cat([x[..., :2], x, x[..., :2]], 3)
    ),
    "forgets the bias": BrokenConv(lambda packed: packed._replace(bias=None)),
    "forgets the residual": BrokenConv(adds=False),
    "skips the last image": BrokenConv(after=_zero(-1)),
    "skips the ragged tail": BrokenConv(after=_zero(EVERY, slice(96, None))),
    "skips the last row": BrokenConv(after=_zero(EVERY, EVERY, -1)),
    "skips the last position": BrokenConv(after=_zero(EVERY, EVERY, -1, -1)),
    "is off by one percent": BrokenConv(after=lambda y: y * (1 + 1e-2)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", BROKEN_CONVS)
@pytest.mark.parametrize("layout", ["default", "channels last"])
def test_a_broken_convolution_is_caught(fault: str, dtype: torch.dtype, layout: str) -> None:
    with pytest.raises(AssertionError, match="off by"):
        check_conv(BROKEN_CONVS[fault], CONV, dtype, 3, layout, (True, True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["default", "channels last", "every other column"])
def test_a_whole_convolution_is_not_caught(dtype: torch.dtype, layout: str) -> None:
    check_conv(conv_reference, CONV, dtype, 3, layout, (True, True))


def test_a_convolution_that_lies_otherwise_is_caught() -> None:
    wrong = BrokenConv()
    wrong.run = lambda x, *rest: conv_reference.run(x, *rest).contiguous()  # type: ignore[method-assign]
    check_conv(wrong, CONV, torch.float32, 3, "default")
    with pytest.raises(AssertionError, match="lies as the input does not"):
        check_conv(wrong, CONV, torch.float32, 3, "channels last")


@pytest.mark.parametrize("which", ["input", "values", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_broken_gradient_of_a_convolution_is_caught(
    which: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tear("conv2d", {"input": 0, "values": 1, "bias": 2}[which], monkeypatch)
    kernel = BY_NAME["cpu_conv2d" if dtype is torch.float32 else "reference_conv2d"]
    with pytest.raises(AssertionError, match="off by"):
        check_conv_gradients(kernel, CONV, dtype, batch=3)
