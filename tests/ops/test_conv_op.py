"""sparsekern::conv2d as torch sees it: schema, fake, autograd, autocast, and its errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import truth
from conv_checks import Conv
from torch import Tensor, nn
from torch.nn.functional import conv2d as dense_conv2d

import sparsekern as sk
from sparsekern import _core
from sparsekern.formats import BlockSparse
from sparsekern.kernels import Choice, Plan, make_plan
from sparsekern.kernels.table import BY_NAME
from sparsekern.ops import conv2d

SMALL = truth.ConvCase(6, 3, (3, 2), (4, 1), 0.4, map=(5, 6), stride=(2, 1), padding=(1, 0))
CASES = (
    SMALL,
    truth.ConvCase(6, 3, (2, 2), (1, 1), 0.4, map=(4, 5), padding="same"),  # not the same on both sides
    truth.ConvCase(6, 3, (3, 3), (1, 9), 0.4, map=(4, 5), padding=(2, 1), dilation=(1, 2)),
)
KERNELS = pytest.mark.parametrize("kernel", ["cpu_conv2d", "reference_conv2d"])


class Problem:
    """A convolution on one kernel, and the tensors to call it with."""

    def __init__(self, case: truth.ConvCase, kernel: str, dtype: torch.dtype = torch.float32) -> None:
        conv = Conv(case, dtype)
        self.weight, self.geometry, self.dense = conv.weight, conv.geometry, conv.dense
        self.plan: Plan = make_plan(self.weight, Choice(BY_NAME[kernel], ()), self.geometry)
        self.x, self.bias = conv.inputs(case, 2), conv.dense.bias
        self.residual = conv.residual(self.x)

    def __call__(self, x: Tensor, values: Tensor | None = None, **terms: object) -> Tensor:
        w = self.weight
        moved = w if values is None else BlockSparse.trusted(w.shape, w.crow, w.col, values)
        terms.setdefault("bias", self.bias)
        return conv2d(x, moved, plan=self.plan, geometry=self.geometry, **terms)  # type: ignore[arg-type]

    def op_arguments(self, x: Tensor, *terms: Tensor | None) -> tuple[object, ...]:
        """Of ``sparsekern::conv2d``; ``terms`` are bias and residual."""
        w, index = self.weight, self.plan.index
        geometry = list(self.geometry)
        return (x, w.values, *terms, w.crow, w.col, index, geometry, self.plan.kernel.name)


@KERNELS
@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_opcheck(kernel: str, case: truth.ConvCase) -> None:
    problem = Problem(case, kernel)
    problem(problem.x)  # fills the index's copy
    last = problem.x.contiguous(memory_format=torch.channels_last)
    for x, terms, leaves in (
        (problem.x, (problem.bias, problem.residual), 4),
        (last, (None, problem.residual), 2),
        (problem.x[:0], (problem.bias, None), 0),
        (torch.randn(2, 3, 6, 14)[..., ::2], (problem.bias, None), 0),
    ):
        arguments = list(problem.op_arguments(x, *terms))
        for at in range(leaves):
            if arguments[at] is not None:
                arguments[at] = arguments[at].detach().clone().requires_grad_()  # type: ignore[attr-defined]
        torch.library.opcheck(torch.ops.sparsekern.conv2d.default, tuple(arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_of_the_cpu_op(dtype: torch.dtype) -> None:
    op = torch.ops.sparsekern.cpu_conv2d.default
    for case in CASES[:2]:
        problem = Problem(case, "cpu_conv2d", dtype)
        problem(problem.x)  # fills the index's copy
        for layout in (torch.contiguous_format, torch.channels_last):
            x, residual = (t.contiguous(memory_format=layout) for t in (problem.x, problem.residual))
            arguments = problem.op_arguments(x, problem.bias, residual)[:7]
            torch.library.opcheck(op, (*arguments, *problem.geometry[:-1], -1, 0))
    gray = Problem(truth.ConvCase(6, 1, (3, 3), (1, 1), 0.4), "cpu_conv2d", dtype)
    gray(gray.x)
    for x in (gray.x, gray.x.contiguous(memory_format=torch.channels_last)):
        torch.library.opcheck(op, (*gray.op_arguments(x, None, None)[:7], *gray.geometry[:-1], -1, 1))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck(case: truth.ConvCase) -> None:
    problem = Problem(case, "reference_conv2d", torch.float64)

    def product(x: Tensor, values: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return problem(x, values, bias=bias, residual=residual)

    # Padding behind the ragged edge takes no part: its gradient is zero by both counts.
    tensors = (problem.x[:1, :, :, :4], problem.weight.values, problem.bias)
    residual = torch.randn_like(problem(tensors[0]))
    inputs = tuple(t.clone().requires_grad_() for t in (*tensors, residual))
    assert torch.autograd.gradcheck(product, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(product, inputs, fast_mode=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_has_a_gradient(case: truth.ConvCase) -> None:
    """A gradient penalty: on the CPU's own kernels, not only on the reference."""
    problem = Problem(case, "cpu_conv2d")
    x, values = problem.x.requires_grad_(), problem.weight.values.clone().requires_grad_()
    w = problem.weight
    dense = BlockSparse.trusted(w.shape, w.crow, w.col, values).to_dense().view(problem.dense.weight.shape)

    def penalty(y: Tensor) -> tuple[Tensor, ...]:
        (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, values))

    got = penalty(problem(x, values))
    want = penalty(problem.dense._conv_forward(x, dense, problem.bias))
    for ours, torchs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)


@KERNELS
def test_only_what_is_asked_gets_a_gradient(kernel: str) -> None:
    problem = Problem(SMALL, kernel)
    for names in (("x",), ("values",), ("bias",), ("residual",), ("bias", "residual")):
        tensors = {"x": problem.x, "values": problem.weight.values}
        tensors |= {"bias": problem.bias, "residual": problem.residual}
        leaves = {k: t.clone().requires_grad_(k in names) for k, t in tensors.items()}
        y = problem(**leaves)
        y.sum().backward()
        assert {name for name, leaf in leaves.items() if leaf.grad is not None} == set(names)


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_lies_in_memory_as_torchs_does(kernel: str, dtype: torch.dtype) -> None:
    for in_, size in ((3, (5, 6)), (1, (5, 6)), (1, (3, 3)), (3, (3, 3)), (1, (1, 9)), (8, (9, 1))):
        case = truth.ConvCase(6, in_, (min(size[0], 3), min(size[1], 3)), (1, 1), 0.3, map=size)
        problem = Problem(case, kernel, dtype)
        last = problem.x.contiguous(memory_format=torch.channels_last)
        for x in (problem.x, last, last.clone(), problem.x[:1], last[:1], last[1:, :, :]):
            want = dense_conv2d(x, problem.dense.weight.contiguous(), problem.bias)
            for grad in (False, True):
                got = problem(x.detach().requires_grad_(grad))
                assert got.stride() == want.stride(), (case, x.stride())
                got = problem(x, residual=want)
                assert [s for s, n in zip(got.stride(), got.shape, strict=True) if n > 1] == [
                    s for s, n in zip(want.stride(), want.shape, strict=True) if n > 1
                ]


@KERNELS
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_without_a_batch(kernel: str, activation: str | None) -> None:
    problem = Problem(SMALL, kernel)
    x, residual = problem.x[1], problem.residual[1]
    for grad in (False, True):
        got = problem(x.clone().requires_grad_(grad), activation=activation, residual=residual)
        want = problem(problem.x, activation=activation, residual=problem.residual)[1]
        torch.testing.assert_close(got, want)
        assert got.shape == residual.shape and got.is_contiguous()


def test_autocast_gives_the_dtype_of_nn_conv2d() -> None:
    problem = Problem(SMALL, "cpu_conv2d")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = problem(problem.x, residual=problem.residual.bfloat16())
        assert got.dtype is problem.dense(problem.x).dtype is torch.bfloat16
        assert problem(problem.x[0]).shape == got.shape[1:]
    exact = problem(problem.x, residual=problem.residual.bfloat16().float())
    assert torch.equal(got, exact.bfloat16())  # summed in float32, rounded once
    x = problem.x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = problem(x)
    y.float().sum().backward()
    (want,) = torch.autograd.grad(problem.dense(x).sum(), x)
    torch.testing.assert_close(x.grad, want)


WRONG = {
    "rank": (
        torch.ones(5, 5),
        "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [5, 5]",
    ),
    "rank 5": (torch.ones(1, 1, 3, 5, 5), "but got input of size: [1, 1, 3, 5, 5]"),
    "channels": (
        torch.ones(1, 2, 5, 5),
        "Given groups=1, weight of size [6, 3, 3, 2], expected input[1, 2, 5, 5] to have 3 channels, "
        "but got 2 channels instead",
    ),
    "no batch": (torch.ones(2, 5, 5), "expected input[1, 2, 5, 5] to have 3 channels"),
    "dtype": (
        torch.ones(1, 3, 5, 5, dtype=torch.float64),
        "Input type (double) and bias type (float) should be",
    ),
    "integers": (
        torch.ones(1, 3, 5, 5, dtype=torch.int64),
        "Input type (long int) and bias type (float) should be",
    ),
    "too small": (
        torch.ones(1, 3, 5, 1),
        "Calculated padded input size per channel: (7 x 1). Kernel size: (3 x 2). "
        "Kernel size can't be greater than actual input size",
    ),
    "nothing down": (torch.ones(1, 3, 0, 5), "Kernel size can't be greater than actual input size"),
}


@KERNELS
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
def test_errors_are_torchs(kernel: str, grad: bool, wrong: str) -> None:
    problem, (x, words) = Problem(SMALL, kernel), WRONG[wrong]
    x = x.requires_grad_(grad and x.is_floating_point())
    with pytest.raises(RuntimeError) as theirs:
        problem.dense(x)
    with pytest.raises(RuntimeError) as ours:
        problem(x)
    assert words in str(ours.value)
    assert words in str(theirs.value)


@KERNELS
def test_terms_that_do_not_fit_are_named(kernel: str) -> None:
    problem = Problem(SMALL, kernel)
    x, residual = problem.x, problem.residual
    with pytest.raises(RuntimeError, match=r"expected bias to be .*, 1-dimensional with 6 elements"):
        problem(x, bias=torch.ones(5))
    for wrong in (residual[:1], residual[..., :-1], residual.double(), residual[0]):
        with pytest.raises(RuntimeError, match=r"residual: expected torch.float32 \(2, 6, 3, 5\), .* got"):
            problem(x, residual=wrong)
    for change in ({"pad_top": -1}, {"stride_h": 0}, {"dilation_w": 0}):
        bent = problem.geometry._replace(**change)
        with pytest.raises(RuntimeError, match="expected strides and dilations from 1 and padding from 0"):
            conv2d(x, problem.weight, None, problem.plan, bent)


def test_the_cpu_op_refuses_what_it_would_misread() -> None:
    problem = Problem(SMALL, "cpu_conv2d")
    op = torch.ops.sparsekern.cpu_conv2d.default
    good = [
        *problem.op_arguments(problem.x, problem.bias, problem.residual)[:7],
        *problem.geometry[:-1],
        -1,
        0,
    ]
    want = op(*good)
    for at, wrong in (
        (0, problem.x[:, :2].contiguous()),
        (0, problem.x.double()),
        (1, problem.weight.values[:-1]),
        (2, torch.ones(5)),
        (3, problem.residual[..., :-1].contiguous()),
        (5, problem.weight.col[:-1]),
        (6, problem.plan.index[:-1]),
        (7, 7),
        (13, -1),
        (19, 2),
        (20, 3),
    ):
        arguments = list(good)
        arguments[at] = wrong
        for _ in range(2):  # and stays whole afterwards
            with pytest.raises(ValueError, match=r"expected|belong"):
                op(*arguments)
    assert torch.equal(op(*good), want)


def test_no_gradient_no_graph() -> None:
    problem = Problem(SMALL, "cpu_conv2d")
    assert not problem(problem.x).requires_grad
    with torch.no_grad():
        assert not problem(problem.x.requires_grad_()).requires_grad


def test_layers_may_be_called_from_many_threads() -> None:
    for case in CASES:
        problem = Problem(case, "cpu_conv2d")
        want = problem(problem.x)
        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(lambda _: problem(problem.x), range(100)):  # noqa: B023
                assert torch.equal(got, want)


def test_the_bare_op_refuses_what_would_be_read_beyond_its_end() -> None:
    layer = sk.SparseConv2d.from_dense(nn.Conv2d(4, 64, 3), block=(1, 1))
    x, none = torch.randn(1, 4, 9, 9), torch.empty(0, dtype=torch.int32)
    sizes = [64, 4, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1]

    def call(crow: Tensor, kernel: int, numbers: list[int]) -> Tensor:
        y: Tensor = torch.ops.sparsekern.cpu_conv2d(
            x, layer.values, None, None, crow, layer.col, layer.index, *numbers, kernel, 0
        )
        return y

    rows = _core.CONV_KERNELS.index("rows")
    with torch.no_grad():
        torch.testing.assert_close(call(none, -1, sizes), call(layer.crow, rows, sizes), rtol=1e-4, atol=1e-4)
        with pytest.raises((ValueError, RuntimeError), match="expected crow of 65"):
            call(layer.crow[:1], rows, sizes)
        with pytest.raises((ValueError, RuntimeError), match="dilation in"):
            call(layer.crow, -1, [*sizes[:10], 2**62, 1])


def test_the_bare_op_reads_a_bias_by_its_strides() -> None:
    conv = nn.Conv2d(4, 8, 3)
    layer, x, bias = sk.SparseConv2d.from_dense(conv, block=(1, 1)), torch.randn(1, 4, 9, 9), torch.randn(16)
    with torch.no_grad():
        got = torch.ops.sparsekern.cpu_conv2d(
            x,
            layer.values,
            bias[::2],
            None,
            layer.crow,
            layer.col,
            layer.index,
            *(8, 4, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, -1, 0),
        )
        torch.testing.assert_close(got, dense_conv2d(x, conv.weight, bias[::2]))
