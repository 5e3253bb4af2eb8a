"""sparsekern::linear as torch sees it: schema, fake, autograd, autocast, and its errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import Choice, Plan, cpu, make_plan
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.ops import linear


def problem(dtype: torch.dtype, block: tuple[int, int] = (4, 1)) -> tuple[Tensor, BlockSparse, Tensor, Plan]:
    dense = torch.randn(10, 7, dtype=dtype) * (torch.rand(10, 7) < 0.6)
    weight = BlockSparse.from_dense(dense, block)
    kernel = BY_NAME["reference_linear"]
    return (
        torch.randn(3, 7, dtype=dtype),
        weight,
        torch.randn(10, dtype=dtype),
        make_plan(weight, Choice(kernel, ())),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("lead", [(3,), (2, 3), (0,)], ids=str)
def test_opcheck(dtype: torch.dtype, lead: tuple[int, ...]) -> None:
    _, weight, bias, plan = problem(dtype)
    x = torch.randn(*lead, 7, dtype=dtype)
    rest = (weight.crow, weight.col, plan.index, *weight.shape, plan.kernel.name)
    op = torch.ops.sparsekern.linear.default
    leaves = [t.clone().requires_grad_() for t in (x, weight.values, bias)]
    torch.library.opcheck(op, (*leaves, *rest))
    torch.library.opcheck(op, (leaves[0], leaves[1], None, *rest))
    torch.library.opcheck(torch.ops.sparsekern.linear.default, (x, weight.values, bias, *rest))


@pytest.mark.parametrize("block", [(1, 1), (4, 1), (3, 2)], ids=str)
def test_gradcheck(block: tuple[int, int]) -> None:
    x, weight, bias, plan = problem(torch.float64, block)

    def product(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        moved = BlockSparse.trusted(weight.shape, weight.crow, weight.col, values)
        return linear(x, moved, bias, plan)

    # Padding behind the ragged edge takes no part: its gradient is zero by both counts.
    inputs = tuple(t.clone().requires_grad_() for t in (x, weight.values, bias))
    assert torch.autograd.gradcheck(product, inputs)


def test_leading_dimensions_and_strides_are_those_of_torch() -> None:
    _, weight, bias, plan = problem(torch.float32)
    dense = weight.to_dense()
    for x in (
        torch.randn(7),
        torch.randn(2, 3, 7),
        torch.randn(2, 7, 3).transpose(1, 2),
        torch.randn(2, 0, 7),
    ):
        want = torch.nn.functional.linear(x, dense, bias)
        got = linear(x, weight, bias, plan)
        assert got.is_contiguous()
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kernel", ["reference_linear", "cpu_linear"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_gives_the_dtype_of_nn_linear(kernel: str, dtype: torch.dtype) -> None:
    x, weight, bias, _ = problem(torch.float32)
    plan = make_plan(weight, Choice(BY_NAME[kernel], ()))
    exact = linear(x, weight, bias, plan)
    with torch.autocast("cpu", dtype=dtype):
        want = torch.nn.functional.linear(x, weight.to_dense(), bias)
        for recorded in (False, True):
            got = linear(x.requires_grad_(recorded), weight, bias, plan)
            assert got.dtype is want.dtype is dtype
            assert torch.equal(got, exact.to(dtype))  # summed in float32, rounded once
        assert linear(x.to(dtype), weight, bias, plan).dtype is dtype  # what the layer before it gave


def test_autocast_keeps_gradients() -> None:
    x, weight, bias, plan = problem(torch.float32)
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = linear(x, weight, bias, plan)
    y.float().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.to_dense().sum(0).expand(3, 7))


@pytest.mark.parametrize("block", [(1, 1), (2, 1), (5, 1)])
def test_the_gradient_has_a_gradient(block: tuple[int, int]) -> None:
    """A gradient penalty: on the CPU's own kernels, not only on the reference."""
    _, weight, bias, _ = problem(torch.float32, block)
    plan = make_plan(weight, Choice(BY_NAME["cpu_linear"], ()))
    x, values = torch.randn(70, 7, requires_grad=True), weight.values.clone().requires_grad_()
    matrix = BlockSparse.trusted(weight.shape, weight.crow, weight.col, values)

    def penalty(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, values))

    got = penalty(linear(x, matrix, bias, plan))
    want = penalty(torch.nn.functional.linear(x, matrix.to_dense(), bias))
    for ours, torchs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grad", [False, True])
def test_errors_name_what_came(grad: bool) -> None:
    x, weight, bias, plan = problem(torch.float32)
    x.requires_grad_(grad)
    with pytest.raises(
        ValueError, match=r"x: expected \(\.\.\., 7\) for a weight of shape \(10, 7\), got \(3, 6\)"
    ):
        linear(x[:, :6], weight, bias, plan)
    with pytest.raises(ValueError, match=r"x: expected \(\.\.\., 7\) .* got \(\)"):
        linear(torch.tensor(1.0), weight, bias, plan)
    with pytest.raises(ValueError, match=r"x is torch.float64, the weight torch.float32"):
        linear(x.double(), weight, bias, plan)
    with pytest.raises(ValueError, match=r"bias: expected torch.float32 \(10,\), got torch.float32 \(9\)"):
        linear(x, weight, bias[:9], plan)


def test_no_gradient_no_graph() -> None:
    x, weight, bias, plan = problem(torch.float32)
    assert not linear(x, weight, bias, plan).requires_grad
    with torch.no_grad():
        assert not linear(x.requires_grad_(), weight, bias, plan).requires_grad


# ---- sparsekern::cpu_linear, the C++ half's own op


def cpu_arguments(block: tuple[int, int] = (4, 1)) -> list[object]:
    x, weight, bias, plan = problem(torch.float32, block)
    return [x, weight.values, bias, weight.crow, weight.col, plan.index, *weight.shape, -1, 0]


def test_opcheck_of_the_cpu_op() -> None:
    op = torch.ops.sparsekern.cpu_linear.default
    torch.library.opcheck(op, tuple(cpu_arguments()))
    without_bias = cpu_arguments()
    without_bias[2] = None
    torch.library.opcheck(op, tuple(without_bias))


def test_opcheck_of_the_gradients() -> None:
    for block in ((1, 1), (4, 1)):
        x, weight, _, _ = problem(torch.float32, block)
        index = cpu.linear.pack(weight)
        parts = (weight.values, weight.crow, weight.col, index, *weight.shape)
        grad = torch.randn(3, 10)
        torch.ops.sparsekern.cpu_linear_grad_input(grad, *parts)  # fills the index's copy
        torch.library.opcheck(torch.ops.sparsekern.cpu_linear_grad_input.default, (grad, *parts))
        torch.library.opcheck(torch.ops.sparsekern.cpu_linear_grad_values.default, (grad, x, *parts))
        if block == (1, 1):
            torch.library.opcheck(torch.ops.sparsekern.cpu_linear_grad_input_single.default, (grad, *parts))
        with pytest.raises(ValueError, match=r"grad: expected \(\.\.\., 10\) .* got \(3, 9\)"):
            cpu.linear.grad_input(grad[:, :9], PackedWeight(weight.values, None, *parts[1:]))
        with pytest.raises(ValueError, match="grad has 2 rows, x 3"):
            torch.ops.sparsekern.cpu_linear_grad_values(grad[:2], x, *parts)


@pytest.mark.parametrize(
    ("at", "wrong", "words"),
    [
        (0, torch.ones(3, 6), r"x: expected \(\.\.\., 7\) .* shape \(10, 7\), got \(3, 6\)"),
        (0, torch.tensor(1.0), r"x: expected \(\.\.\., 7\) .* got \(\)"),
        (0, torch.ones(3, 7, dtype=torch.float64), "x is torch.float64, the weight torch.float32"),
        (3, torch.zeros(3, dtype=torch.int64), "crow, col and index: expected contiguous torch.int32"),
        (4, torch.zeros(1, dtype=torch.int32), "do not belong to values"),
        (5, torch.zeros(1, dtype=torch.int32), "do not belong to values"),
        (8, 4, r"kernel: expected -1 \(choose\) or the number of a kernel .* got 4"),
        (8, 0, r"kernel: expected -1 \(choose\) or .* takes blocks \(4, 1\), got 0"),
        (9, 3, r"activation: expected 0 \(none\), 1 \(relu\) or 2 \(gelu\), got 3"),
        (2, torch.ones(9), r"bias: expected torch.float32 \(10,\), got torch.float32 \(9\)"),
        (2, torch.ones(10, dtype=torch.int64), r"bias: expected .* got dtype number 4"),
    ],
)
def test_the_cpu_op_refuses_what_it_would_misread(at: int, wrong: object, words: str) -> None:
    arguments = cpu_arguments()
    arguments[at] = wrong
    for _ in range(3):  # and stays whole afterwards
        with pytest.raises(ValueError, match=words):
            torch.ops.sparsekern.cpu_linear.default(*arguments)
    assert torch.ops.sparsekern.cpu_linear.default(*cpu_arguments()).shape == (3, 10)


def test_the_cpu_op_reads_any_strides() -> None:
    arguments = cpu_arguments()
    base = torch.randn(4, 5, 3, 14)
    for x in (
        base[..., ::2],
        base[:, ::2, :, :7],
        base[..., :7].permute(2, 0, 1, 3),
        base[:1, :1, :1, 7:],
        base[:0, ..., :7],
    ):
        arguments[0] = x
        got = torch.ops.sparsekern.cpu_linear.default(*arguments)
        arguments[0] = x.contiguous()
        assert torch.equal(got, torch.ops.sparsekern.cpu_linear.default(*arguments))
        assert got.shape == (*x.shape[:-1], 10) and got.is_contiguous()


def test_layers_may_be_called_from_many_threads() -> None:
    x, weight, bias, plan = problem(torch.float32)
    want = linear(x, weight, bias, plan)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: linear(x, weight, bias, plan), range(200)):
            assert torch.equal(got, want)
