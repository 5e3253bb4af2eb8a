"""The kernel checks must fail on kernels that are broken on purpose, at every dtype."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
import truth
from kernel_checks import check_forward, check_gradients
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import KERNELS
from sparsekern.kernels.reference import linear as reference
from sparsekern.kernels.select import PackedWeight

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


@pytest.mark.parametrize("which", ["input", "values", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_broken_gradient_is_caught(which: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    at = {"input": 0, "values": 1, "bias": 2}[which]

    class Torn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, tensor: Tensor) -> Tensor:
            return tensor.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            torn = grad.clone()
            torn.view(-1)[0] += torn.abs().max()
            return torn

    op_module = importlib.import_module("sparsekern.ops.linear")  # the package's attribute is the function
    real = op_module._differentiable
    monkeypatch.setattr(
        op_module, "_differentiable", lambda *args: real(*args[:at], Torn.apply(args[at]), *args[at + 1 :])
    )
    kernel = KERNELS[0] if dtype is torch.float32 else KERNELS[-1]
    with pytest.raises(AssertionError, match="off by"):
        check_gradients(kernel, CASE, dtype, batch=17)
