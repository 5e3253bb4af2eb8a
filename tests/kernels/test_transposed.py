"""The gradient of the input of single weights: by the transposed weight, and when not."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import cpu, transposed
from sparsekern.kernels.select import PackedWeight


def packed(n: int = 40, k: int = 30) -> tuple[PackedWeight, Tensor]:
    dense = torch.randn(n, k) * (torch.rand(n, k) < 0.2)
    dense[:, 3], dense[5] = 0, 0  # a dead column, a dead output
    weight = BlockSparse.from_dense(dense, (1, 1))
    index = cpu.linear.pack(weight)
    return PackedWeight(weight.values, None, weight.crow, weight.col, index, n, k), dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", [True, False])
def test_both_ways_give_the_same(monkeypatch: pytest.MonkeyPatch, way: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(cpu, "pays", lambda rows, values: way)
    weight, dense = packed()
    weight = weight._replace(values=weight.values.to(dtype))
    for shape in ((40,), (1, 40), (2, 9, 40), (0, 40), (130, 40)):
        grad = torch.randn(shape).to(dtype)
        got = cpu.linear.grad_input(grad, weight)
        want = (grad.double() @ dense.to(dtype).double()).to(dtype)
        torch.testing.assert_close(got, want, rtol=2e-2 if dtype is torch.bfloat16 else 2e-3, atol=1e-2)
        assert got.dtype is dtype


def test_values_that_change_count_at_once() -> None:
    weight, _ = packed()
    grad = torch.randn(7, 40)
    before = cpu.linear.grad_input(grad, weight)
    weight.values.mul_(2)
    torch.testing.assert_close(cpu.linear.grad_input(grad, weight), 2 * before, rtol=0, atol=0)


def test_the_pattern_is_made_once_and_goes_with_its_index() -> None:
    weight, _ = packed()
    cpu.linear.grad_input(torch.randn(2, 40), weight)
    way = transposed._known[weight.plan_index]
    cpu.linear.grad_input(torch.randn(3, 40), weight)
    assert transposed._known[weight.plan_index] is way
    gone = weakref.ref(way.order)
    del weight, way
    gc.collect()
    assert gone() is None


def test_large_weights_and_few_rows_go_the_other_way() -> None:
    small, large = torch.empty(2**19, device="meta"), torch.empty(2**19 + 1, device="meta")
    assert transposed.pays(1, small) and transposed.pays(100, large)
    assert not transposed.pays(99, large)


@pytest.mark.parametrize("wrong", [torch.ones(3, 39), torch.ones(3, 40, dtype=torch.float64)])
def test_what_does_not_fit_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^grad"):
        cpu.linear.grad_input(wrong, packed()[0])
