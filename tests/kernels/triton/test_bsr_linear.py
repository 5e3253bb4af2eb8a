"""The Triton kernels of Linear: every kernel, shape, dtype and number of rows against float64."""

from __future__ import annotations

import pytest
import torch
import truth
from torch import Tensor
from triton_checks import (
    CASES,
    DEVICE,
    DTYPES,
    ROWS,
    check_forward,
    check_grad_input,
    check_grad_values,
    make,
    rows,
)

from sparsekern.formats import BlockSparse
from sparsekern.kernels import Choice, make_plan
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.kernels.triton import bsr_linear
from sparsekern.kernels.triton.launch import Launch
from sparsekern.ops import linear, linear_packed

LAUNCHES = {
    "default": None,
    "pointers": Launch("pointers", 64, 32, 4, 2, group=2),
    "pointers, blocks side by side": Launch("pointers", 32, 64, 4, 3, persistent=1),
    "tma": Launch("tma", 64, 16, 4, 2, group=2),
    "tma, persistent": Launch("tma", 32, 16, 4, 3, persistent=1),
    "tma, blocks side by side": Launch("tma", 32, 64, 4, 2, persistent=1),
    "tma, weights first": Launch("tma", 64, 16, 4, 3, weights_first=True),
    "few": Launch("few", 32, 32, 2, 2),
    "few, split": Launch("few", 32, 64, 4, 2, split=3),
}


def takes(launch: Launch | None, case: truth.Case, m: int, dtype: torch.dtype) -> bool:
    if launch is None or launch.kernel == "pointers":
        return True
    if launch.kernel == "few":
        return m <= launch.rows
    whole_rows = all(size * dtype.itemsize % 16 == 0 for size in (case.n, case.k))
    return whole_rows and case.sparsity < 1


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", LAUNCHES)
def test_forward_and_gradient_of_the_input(name: str, case: truth.Case) -> None:
    """By default in every dtype and, in one of them, all ROWS; by any other launch in one dtype, a third of
    ROWS."""
    launch, number = LAUNCHES[name], CASES.index(case) + list(LAUNCHES).index(name)
    ran = 0
    for dtype in DTYPES if launch is None else (DTYPES[number % 3],):
        weight, dense = make(case, dtype)
        for i, m in enumerate(ROWS):
            whole = launch is None and DTYPES.index(dtype) == number % 3
            if takes(launch, case, m, dtype) and (whole or (i + number) % 3 == 0):
                check_forward(weight if i % 2 else weight._replace(bias=None), dense, m, launch)
                check_grad_input(weight, dense, m, launch)
                ran += 1
    assert ran or not any(takes(launch, case, m, DTYPES[number % 3]) for m in ROWS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_of_the_values(case: truth.Case) -> None:
    for dtype in DTYPES:
        weight, _ = make(case, dtype)
        for m in (1, 17, 100):
            check_grad_values(weight, m, None)
    weight, _ = make(case, DTYPES[CASES.index(case) % 3])
    check_grad_values(weight, 100, Launch("values", 64, 16, 4, 2, split=3))
    check_grad_values(weight, 3, Launch("values", 64, 32, 4, 2, split=5))  # parts without rows


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("name", LAUNCHES)
def test_activations_are_torchs(name: str, activation: str) -> None:
    for dtype in DTYPES:
        weight, dense = make(CASES[4], dtype)
        check_forward(weight, dense, 20, LAUNCHES[name], activation)
        y = bsr_linear.product(
            rows(3, weight.k, dtype) * torch.nan,
            bsr_linear.matrix_of(weight),
            weight.bias,
            1,
            LAUNCHES[name],
        )
        held = torch.isin(torch.arange(weight.n) // 64, stored_rows(weight))
        assert y[:, held].isnan().all() and y[:, ~held].isfinite().all()


def stored_rows(weight: PackedWeight) -> Tensor:
    """Block rows that store something."""
    return weight.crow.diff().nonzero().flatten().cpu()


@pytest.mark.parametrize("name", LAUNCHES)
def test_nothing_beyond_the_edges_is_read(name: str) -> None:
    """What pads ragged blocks, and what lies around x, is NaN: it must not show."""
    case = CASES[4]
    weight, dense = make(case, torch.float16)
    rows_ = BlockSparse.trusted((case.n, case.k), weight.crow, weight.col, weight.values).block_row()
    outputs = rows_[:, None] * 64 + torch.arange(64, device=DEVICE)
    inputs = weight.col[:, None] * 16 + torch.arange(16, device=DEVICE)
    beyond = (outputs >= case.n)[:, :, None] | (inputs >= case.k)[:, None, :]
    assert bool(beyond.any())
    weight.values[beyond & (outputs >= case.n)[:, :, None]] = torch.nan
    around = torch.full((22, case.k + 16), torch.nan, dtype=torch.float16, device=DEVICE)
    x = around[1:-1, 8 : 8 + case.k]
    x.copy_(rows(20, case.k, torch.float16))
    got = bsr_linear.product(x, bsr_linear.matrix_of(weight), weight.bias, 0, LAUNCHES[name])
    limit = truth.bound(x, dense, weight.bias, torch.float16)
    truth.assert_close(got, truth.linear(x, dense, weight.bias), limit)


@pytest.mark.parametrize("layout", ["transposed", "every other row", "every other column", "one row"])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_any_strides_and_dimensions(layout: str, shape: tuple[int, ...]) -> None:
    weight, dense = make(CASES[1], torch.float32)
    k = weight.k
    x = {
        "transposed": torch.randn(*shape, k, 19).mT,
        "every other row": torch.randn(*shape, 38, k)[..., ::2, :],
        "every other column": torch.randn(*shape, 19, 2 * k)[..., ::2],
        "one row": torch.randn(*shape, 1, k).expand(*shape, 19, k),
    }[layout].to(DEVICE)
    got = bsr_linear.linear.run(x, weight)
    truth.assert_close(got, truth.linear(x, dense, weight.bias), truth.bound(x, dense, weight.bias, x.dtype))


def test_zero_sizes() -> None:
    for n, k, m in ((16, 32, 0), (16, 0, 3), (0, 16, 3)):
        matrix = BlockSparse(
            (n, k),
            (16, 16),
            torch.zeros(-(-n // 16) + 1, dtype=torch.int32),
            torch.zeros(0, dtype=torch.int32),
            torch.zeros(0, 16, 16),
        )
        index = bsr_linear.linear.pack(matrix)
        bias = torch.randn(n)
        weight = PackedWeight(matrix.values, bias, matrix.crow, matrix.col, index, n, k)
        weight = PackedWeight(*(part.to(DEVICE) if isinstance(part, Tensor) else part for part in weight))
        got = bsr_linear.linear.run(torch.randn(m, k, device=DEVICE), weight)
        assert torch.equal(got.cpu(), bias.expand(m, n))


@pytest.mark.parametrize("case", CASES[1:6], ids=str)
def test_the_op_and_its_gradients(case: truth.Case) -> None:
    for dtype in DTYPES:
        weight, dense = make(case, dtype)
        matrix = BlockSparse.trusted((case.n, case.k), weight.crow, weight.col, weight.values)
        x, grad = rows(21, case.k, dtype), rows(21, case.n, dtype)
        plan = make_plan(matrix, Choice(BY_NAME["triton_linear"], ()))
        assert weight.bias is not None
        leaves = [t.clone().requires_grad_() for t in (x, weight.values, weight.bias)]
        sparse = BlockSparse.trusted(matrix.shape, matrix.crow, matrix.col, leaves[1])
        y = linear(leaves[0], sparse, leaves[2], plan, "relu")
        want = torch.relu(truth.linear(x, dense, weight.bias))
        truth.assert_close(y.detach(), want, truth.bound(x, dense, weight.bias, dtype))
        y.backward(grad)
        up = torch.where(y.detach() > 0, grad, 0).double()
        to_x, to_values, to_bias = (leaf.grad for leaf in leaves)
        assert to_x is not None and to_values is not None and to_bias is not None
        truth.assert_close(to_x, up @ dense, truth.bound(up, dense.T, None, dtype))
        spread = BlockSparse.trusted(matrix.shape, matrix.crow, matrix.col, to_values.double())
        wanted = torch.where(spread.mask(), up.T @ x.double(), 0.0)
        truth.assert_close(spread.to_dense(), wanted, truth.bound(up.T, x.double().T, None, dtype))
        ones = torch.ones(1, 21, device=DEVICE)
        truth.assert_close(to_bias, up.sum(0), truth.bound(ones, up.T, None, dtype)[0])


def test_the_ops_are_what_they_say() -> None:
    weight, _ = make(CASES[4], torch.float32)
    x, grad = rows(5, weight.k, torch.float32), rows(5, weight.n, torch.float32)
    tests = ("test_schema", "test_faketensor")  # they have no gradient of their own: sparsekern::linear has
    ops = torch.ops.sparsekern
    torch.library.opcheck(ops.triton_linear.default, (x, *weight, 1), test_utils=tests)
    torch.library.opcheck(ops.triton_linear_grad_input.default, (grad, *weight), test_utils=tests)
    torch.library.opcheck(ops.triton_linear_grad_values.default, (grad, x, *weight), test_utils=tests)


def test_two_runs_give_the_same_bits() -> None:
    weight, _ = make(CASES[4], torch.float16)
    matrix, x, grad = (
        bsr_linear.matrix_of(weight),
        rows(9, weight.k, torch.float16),
        rows(9, weight.n, torch.float16),
    )
    split = Launch("few", 16, 32, 4, 2, split=4)
    first, again = (bsr_linear.product(x, matrix, weight.bias, 0, split) for _ in range(2))
    assert torch.equal(first, again)
    cut = Launch("values", 64, 16, 4, 2, split=2)
    first, again = (bsr_linear.values_gradient(grad, x, weight, cut) for _ in range(2))
    assert torch.equal(first, again)


def test_a_product_refuses_what_does_not_fit() -> None:
    weight, _ = make(CASES[0], torch.float32)
    with pytest.raises(ValueError, match=r"expected \(..., 16\)"):
        bsr_linear.linear.run(torch.randn(3, 17, device=DEVICE), weight)
    with pytest.raises(ValueError, match="expected one dtype"):
        bsr_linear.linear.run(torch.randn(3, 16, device=DEVICE).half(), weight)


def test_the_variant_is_the_kernel_that_runs() -> None:
    weight, _ = make(truth.Case(128, 128, (64, 64), 0.5), torch.bfloat16)
    assert [bsr_linear.linear.variant(m, weight) for m in (1, 32, 33, 1000)] == ["few", "few", "tma", "tma"]
    ragged, _ = make(CASES[5], torch.bfloat16)
    assert bsr_linear.linear.variant(1000, ragged) == "pointers"


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_as_one_graph(dynamic: bool) -> None:
    weight, dense = make(CASES[4], torch.float32)
    BY_NAME["triton_linear"].backend()  # a layer has loaded it when it was made
    compiled = torch.compile(linear_packed, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for m in (20, 40, 60):
        x = rows(m, weight.k, torch.float32)
        got = compiled(x, weight, "triton_linear", "relu")
        want = torch.relu(truth.linear(x, dense, weight.bias))
        truth.assert_close(got, want, truth.bound(x, dense, weight.bias, x.dtype))
        leaf = x.clone().requires_grad_()
        compiled(leaf, weight, "triton_linear").sum().backward()
        assert leaf.grad is not None
        ones = torch.ones(m, weight.n, device=DEVICE)
        truth.assert_close(leaf.grad, ones.double() @ dense, truth.bound(ones, dense.T, None, x.dtype))
