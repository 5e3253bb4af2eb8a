"""Every kernel of the table, on every ISA, dtype, shape and batch, against the masked dense layer in
float64."""

from __future__ import annotations

import pytest
import torch
import truth
from kernel_checks import ALL, LINEAR, check_forward, check_gradients, kernels_for, make_problem, run
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import KERNELS, Kernel, Problem
from sparsekern.kernels.reference import linear as reference

BY_NAME = {kernel.name: kernel for kernel in ALL}
TABLE = {kernel.name: kernel for kernel in LINEAR}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("op", ["linear", "conv2d"])
def test_the_reference_is_last_of_its_op_and_takes_everything(op: str) -> None:
    last = [kernel for kernel in KERNELS if kernel.op == op][-1]
    assert last.name == f"reference_{op}"
    assert last.refuse(Problem(op, "anything", "", "complex64", (3, 7), 1, 2, 3, 0.5, groups=5)) is None


@pytest.mark.parametrize("case", truth.CASES, ids=str)
@pytest.mark.parametrize("name", BY_NAME)
def test_forward(name: str, case: truth.Case, isa: str) -> None:
    ran = 0
    for dtype in DTYPES:
        weight, _ = make_problem(case, dtype)
        if BY_NAME[name] not in kernels_for(weight):
            continue
        for batch in truth.BATCHES:
            for with_bias in (True, False):
                check_forward(BY_NAME[name].backend(), case, dtype, batch, with_bias)
                ran += 1
    assert ran or BY_NAME[name].refuse(_problem(case)), f"{name} takes {case} but was never run"


def _problem(case: truth.Case) -> Problem:
    return Problem("linear", "cpu", "", "float32", case.block, 8, case.n, case.k, 1 - case.sparsity)


@pytest.mark.parametrize("case", truth.CASES, ids=str)
@pytest.mark.parametrize("name", TABLE)
def test_gradients(name: str, case: truth.Case, isa: str) -> None:
    for dtype in DTYPES:
        weight, _ = make_problem(case, dtype)
        if BY_NAME[name] in kernels_for(weight):
            for batch in (1, 17, 32, 130):
                check_gradients(BY_NAME[name], case, dtype, batch)
    assert any(k.name == name for k in KERNELS)


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_nothing_beyond_the_edges_is_read(kernel: Kernel, isa: str) -> None:
    """The padding of ragged blocks, and what lies around the rows of x, is NaN: it must not show."""
    for case, dtype in (
        (truth.Case(61, 48, (8, 1), 0.8), torch.float32),
        (truth.Case(37, 53, (1, 1), 0.5), torch.float32),
        (truth.Case(90, 33, (24, 1), 0.7), torch.float32),
        (truth.Case(61, 77, (16, 2), 0.5), torch.bfloat16),
        (truth.Case(90, 48, (32, 2), 0.5), torch.bfloat16),
    ):
        weight, dense = make_problem.__wrapped__(case, dtype)  # its padding is overwritten
        if kernel not in kernels_for(weight) or (kernel.backend() is reference and dtype is torch.bfloat16):
            continue  # oneDNN lets NaN between the rows of a strided bfloat16 x through
        rows = weight.block_row()[:, None] * case.block[0] + torch.arange(case.block[0])
        columns = weight.col[:, None] * case.block[1] + torch.arange(case.block[1])
        weight.values[(rows >= case.n)[:, :, None] | (columns >= case.k)[:, None, :]] = float("nan")
        for batch in (1, 3, 17, 70):
            around = torch.full((batch + 2, case.k + 5), float("nan"), dtype=dtype)
            x = around[1:-1, 2 : 2 + case.k]
            x.copy_(torch.randn(batch, case.k))
            check_output(kernel, weight, x, dense)


def check_output(kernel: Kernel, weight: BlockSparse, x: Tensor, dense: Tensor) -> None:
    got = run(kernel.backend(), weight, x, None)
    truth.assert_close(got, truth.linear(x, dense, None), truth.bound(x, dense, None, x.dtype))


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("layout", ["transposed", "every other row", "every other column", "broadcast"])
def test_any_strides(kernel: Kernel, layout: str, isa: str) -> None:
    x = {
        "transposed": torch.randn(77, 19).t(),
        "every other row": torch.randn(38, 77)[::2],
        "every other column": torch.randn(19, 154)[:, ::2],
        "broadcast": torch.randn(1, 77).expand(19, 77),
    }[layout]
    for block in ((1, 1), (16, 1), (16, 2)):
        for dtype in (torch.float32, torch.bfloat16):
            weight, dense = make_problem(truth.Case(100, 77, block, 0.9), dtype)
            if kernel in kernels_for(weight):
                check_output(kernel, weight, x.to(dtype), dense)


def test_zero_sizes() -> None:
    for n, k, batch in ((5, 7, 0), (5, 0, 3), (0, 7, 3)):
        weight = BlockSparse.from_dense(torch.randn(n, k))
        bias = torch.randn(n)
        for kernel in kernels_for(weight):
            got = run(kernel.backend(), weight, torch.randn(batch, k), bias)
            assert torch.equal(got, bias.expand(batch, n))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_activations_are_torchs(activation: str, isa: str) -> None:
    for case in (
        truth.Case(61, 48, (8, 1), 0.8),
        truth.Case(37, 53, (1, 1), 0.5),
        truth.Case(61, 77, (16, 2), 0.8),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            weight, dense = make_problem(case, dtype)
            for kernel in kernels_for(weight):
                for batch in (1, 5, 70):
                    x = torch.randn(batch, case.k).mul(3).to(dtype)
                    got = run(kernel.backend(), weight, x, None, activation)
                    linear = truth.linear(x, dense, None)
                    want = getattr(torch.nn.functional, activation)(linear)
                    # The fit of csrc/cpu/activation.inc.h is off by 3e-7 |y| at most; slopes stay below 1.2.
                    limit = 1.2 * truth.bound(x, dense, None, dtype) + 3e-7 * linear.abs()
                    truth.assert_close(got, want, limit)


def test_activations_keep_nan() -> None:
    weight = BlockSparse.from_dense(torch.eye(3))
    for kernel in kernels_for(weight):
        for activation in ("relu", "gelu"):
            y = run(kernel.backend(), weight, torch.tensor([[float("nan"), 2.0, -1.0]]), None, activation)
            assert y[0, 0].isnan()


def test_nan_in_a_weight_reaches_its_output_and_no_other() -> None:
    dense = torch.randn(20, 30)
    dense[3, 4] = float("nan")
    weight = BlockSparse.from_dense(dense)
    for kernel in kernels_for(weight):
        if kernel.backend() is reference:
            continue  # a dense product
        got = run(kernel.backend(), weight, torch.randn(9, 30), None)
        assert got[:, 3].isnan().all() and got.isfinite()[:, [i for i in range(20) if i != 3]].all()
