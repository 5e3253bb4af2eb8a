"""int8 in blocks (V, 4): exact against integers in Python, close to the float layer, and no gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import truth
from kernel_checks import check_bits
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels import cpu_int8
from sparsekern.nn import QuantizedSparseLinear, SparseLinear

CASES = (
    truth.Case(16, 4, (16, 4), 0.0),  # one block
    truth.Case(61, 77, (16, 4), 0.5),  # ragged on both edges
    truth.Case(64, 64, (16, 4), 1.0),
    truth.Case(90, 200, (32, 4), 0.8),
    truth.Case(130, 95, (48, 4), 0.5),  # three vectors
)
NAMES = ("amx_int8", "avx512_vnni", "scalar", None)


def layer_of(case: truth.Case, bias: bool = True, activation: str | None = None) -> QuantizedSparseLinear:
    dense = truth.masked_weight(case.n, case.k, case.block, case.sparsity, torch.Generator().manual_seed(3))
    weight = BlockSparse.from_dense(dense.float(), case.block)
    return QuantizedSparseLinear(weight, torch.randn(case.n) if bias else None, activation=activation)


def integers(x: Tensor) -> tuple[Tensor, Tensor]:
    """int64 numbers and the float32 scale of each row, as csrc/cpu/words_quantize.inc.h makes them."""
    largest = x.float().abs().amax(-1, keepdim=True)
    factor = torch.where(largest > 0, torch.full_like(largest, 127) / largest, 0.0)
    return (x.float() * factor).round().long(), largest / 127


def expected(layer: QuantizedSparseLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output in float64, and how far rounding to x's dtype may lead from it."""
    q, scale = integers(x)
    shape = (layer.out_features, layer.in_features)
    weight = BlockSparse.trusted(shape, layer.crow, layer.col, layer.values.long()).to_dense()
    product = (q @ weight.t()).double() * scale.double() * layer.scales.double()
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    y = product + bias.double()
    limit = 4 * torch.finfo(torch.float32).eps * (product.abs() + bias.abs())
    if layer.activation is not None:
        y = getattr(torch.nn.functional, layer.activation)(y)
        limit = 1.2 * limit + 4e-7 * (product.abs() + bias.abs())  # as in test_every_kernel.py
    rounding = 0.0 if x.dtype is torch.float32 else torch.finfo(x.dtype).eps
    return y, limit + rounding * y.abs() + torch.finfo(torch.float32).smallest_normal


def call(layer: QuantizedSparseLinear, x: Tensor, kernel: str | None) -> Tensor:
    weight = (layer.values, layer.scales, layer.bias, layer.crow, layer.col)
    return cpu_int8.linear(x, weight, layer.in_features, layer.activation, kernel)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_are_exact(case: truth.Case, name: str | None, isa: str) -> None:
    if name is not None and name not in cpu_int8.kernels():
        pytest.skip(f"{name} is not for this CPU or ISA")
    for bias, activation in ((True, None), (False, None), (True, "relu"), (True, "gelu")):
        layer = layer_of(case, bias, activation)
        for dtype in (torch.float32, torch.bfloat16):
            for batch in truth.BATCHES:
                x = torch.randn(batch, case.k).to(dtype)
                got = call(layer, x, name)
                assert got.dtype is dtype and got.is_contiguous()
                truth.assert_close(got, *expected(layer, x))


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_repeats_give_the_same_bits(name: str | None) -> None:
    if name is not None and name not in cpu_int8.kernels():
        pytest.skip(f"{name} is not for this CPU")
    layer = layer_of(truth.Case(203, 150, (16, 4), 0.8))
    for dtype in (torch.float32, torch.bfloat16):
        for batch in (1, 7, 1300):  # the last is work for several threads, also to quantize
            check_bits(partial(call, layer, torch.randn(batch, 150).to(dtype), name))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_beyond_the_edges_is_read(name: str | None) -> None:
    if name is not None and name not in cpu_int8.kernels():
        pytest.skip(f"{name} is not for this CPU")
    layer = layer_of(truth.Case(61, 77, (16, 4), 0.5))
    outputs = BlockSparse.trusted((61, 77), layer.crow, layer.col, layer.values).block_row()
    rows = outputs[:, None] * 16 + torch.arange(16)
    columns = layer.col[:, None] * 4 + torch.arange(4)
    for batch in (1, 3, 17):
        around = torch.full((batch + 2, 82), float("nan"))
        x = around[1:-1, 2:79]
        x.copy_(torch.randn(batch, 77))
        want, limit = expected(layer, x)
        layer.values[(rows >= 61)[:, :, None] | (columns >= 77)[:, None, :]] = 113
        truth.assert_close(call(layer, x, name), want, limit)


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_int8_cannot_hold(name: str | None) -> None:
    if name is not None and name not in cpu_int8.kernels():
        pytest.skip(f"{name} is not for this CPU")
    layer = layer_of(truth.Case(64, 64, (16, 4), 0.0))
    x = torch.randn(6, 64)
    x[0], x[1], x[2, 5], x[3, 9], x[4, 2] = 0.0, 1e-35, float("nan"), float("inf"), 3e38
    y = call(layer, x, name)
    assert layer.bias is not None
    assert torch.equal(y[:2], layer.bias.expand(2, 64))
    assert y[2:4].isnan().all() and y[5].isfinite().all()
    assert y[4].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_close_to_the_float_layer(dtype: torch.dtype) -> None:
    dense = truth.masked_weight(256, 512, (16, 4), 0.8, torch.Generator().manual_seed(1)).float()
    linear = nn.Linear(512, 256)
    with torch.no_grad():
        linear.weight.copy_(dense)
    layer = QuantizedSparseLinear.from_dense(linear)
    x = torch.randn(3, 40, 512)
    with torch.no_grad():
        want, got = linear(x), layer(x.to(dtype)).float()
    assert got.shape == want.shape
    assert float((got - want).norm() / want.norm()) < 0.02
    torch.testing.assert_close(layer.weight, dense, rtol=0, atol=float(dense.abs().max()) / 254 * 1.001)


def test_from_a_sparse_layer_keeps_mask_and_activation() -> None:
    linear = nn.Linear(64, 48)
    with torch.no_grad():
        linear.weight[:, 16:] = 0
    sparse = SparseLinear.from_dense(linear, block=(16, 1))
    sparse.activation = "relu"
    layer = QuantizedSparseLinear.from_dense(sparse, block=(16, 4))
    assert layer.activation == "relu" and layer.values.shape == (12, 16, 4)
    assert "block=(16, 4)" in repr(layer) and "activation=relu" in repr(layer)
    with torch.no_grad():
        assert (layer(torch.randn(5, 64)) >= 0).all()


def test_the_state_dict_brings_another_pattern_along() -> None:
    here, there = layer_of(CASES[1]), layer_of(CASES[1])
    dense = truth.masked_weight(61, 77, (16, 4), 0.2, torch.Generator().manual_seed(9)).float()
    other = QuantizedSparseLinear(BlockSparse.from_dense(dense, (16, 4)), torch.randn(61))
    x = torch.randn(9, 77)
    there.load_state_dict(here.state_dict())
    assert torch.equal(there(x), here(x))
    there.load_state_dict(other.state_dict())
    assert torch.equal(there(x), other(x)) and there.values.shape != here.values.shape
    broken = other.state_dict() | {"col": other.col + 1000}
    with pytest.raises(ValueError, match="col"):
        there.load_state_dict(broken)


def test_casts_leave_its_numbers_alone() -> None:
    layer, x = layer_of(CASES[1]), torch.randn(9, 77)
    want = layer(x)
    assert torch.equal(layer.double().bfloat16()(x), want)
    assert layer.scales.dtype is torch.float32 and layer.values.dtype is torch.int8


def test_the_compiler_and_opcheck_know_the_op() -> None:
    layer = layer_of(CASES[1])
    arguments = (layer.values, layer.scales, layer.bias, layer.crow, layer.col, 61, 77, -1, 0)
    torch.library.opcheck(torch.ops.sparsekern.cpu_linear_int8.default, (torch.randn(4, 77), *arguments))


def test_errors_name_what_came() -> None:
    layer, x = layer_of(CASES[1]), torch.randn(4, 77)
    with pytest.raises(ValueError, match="wants a gradient"):
        layer(x.requires_grad_())
    with torch.no_grad():
        assert layer(x).shape == (4, 61)
    for wrong, words in (
        (torch.randn(4, 76), r"expected \(\.\.\., 77\), .* got \(4, 76\)"),
        (torch.randn(4, 77).half(), "x is torch.float16, the weight torch.int8"),
    ):
        with pytest.raises(ValueError, match=words):
            layer(wrong)
    weight = torch.randn(64, 64)
    with pytest.raises(ValueError, match=r"expected \(V, 4\), V a multiple of 16, got \(8, 4\)"):
        QuantizedSparseLinear(BlockSparse.from_dense(weight, (8, 4)))
    with pytest.raises(ValueError, match=r"bias: expected \(64,\), got \(3,\)"):
        QuantizedSparseLinear(BlockSparse.from_dense(weight, (16, 4)), torch.zeros(3))
    with pytest.raises(ValueError, match="activation"):
        QuantizedSparseLinear(BlockSparse.from_dense(weight, (16, 4)), activation="tanh")
    weight[3, 3] = float("inf")
    with pytest.raises(ValueError, match="1 that are not"):
        QuantizedSparseLinear(BlockSparse.from_dense(weight, (16, 4)))
