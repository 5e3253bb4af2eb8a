"""How one kernel is checked against the truth. test_the_tests.py runs the same checks on kernels broken on
purpose."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import truth
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import KERNELS, Choice, Kernel, Problem, cpu, cpu_pairs, make_plan
from sparsekern.kernels.select import Backend, PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.nn.layer import problem_of
from sparsekern.ops import linear

# Every kernel of the C++ half by itself, whatever would be chosen.
dots, outputs, rows, panels = map(cpu._Linear, ("dots", "outputs", "rows", "panels"))
amx_bf16, avx512_bf16 = map(cpu_pairs._Linear, ("amx_bf16", "avx512_bf16"))


def _variant(name: str, tallest: int) -> Kernel:
    def refuse(problem: Problem) -> str | None:
        return BY_NAME["cpu_linear"].refuse(problem) or ("too tall" if problem.block[0] > tallest else None)

    return Kernel(f"cpu_linear:{name}", "linear", f"kernel_checks:{name}", refuse)


def _pairs(feature: str) -> Kernel:
    def refuse(problem: Problem) -> str | None:
        lacks = None if feature in problem.features else f"this CPU lacks {feature}"
        return BY_NAME["cpu_linear_pairs"].refuse(problem) or lacks

    return Kernel(f"cpu_linear_pairs:{feature}", "linear", f"kernel_checks:{feature}", refuse)


VARIANTS = (
    _variant("dots", 1),
    _variant("outputs", 2**31),
    _variant("rows", 2**31),
    _variant("panels", 3),
    _pairs("amx_bf16"),
    _pairs("avx512_bf16"),
)
LINEAR = tuple(kernel for kernel in KERNELS if kernel.op == "linear")
ALL = (*VARIANTS, *LINEAR)


@lru_cache(maxsize=8)
def make_problem(case: truth.Case, dtype: torch.dtype) -> tuple[BlockSparse, Tensor]:
    """The sparse weight, and the same as a dense float64 matrix, rounded to ``dtype``; not to be changed."""
    generator = torch.Generator().manual_seed(case.n * 1000 + case.k)
    dense = truth.masked_weight(case.n, case.k, case.block, case.sparsity, generator).to(dtype)
    return BlockSparse.from_dense(dense, case.block), dense.double()


def kernels_for(weight: BlockSparse) -> list[Kernel]:
    return [kernel for kernel in ALL if kernel.refuse(problem_of(weight)) is None]


def run(
    backend: Backend, weight: BlockSparse, x: Tensor, bias: Tensor | None, activation: str | None = None
) -> Tensor:
    index = backend.pack(weight)
    packed = PackedWeight(weight.values, bias, weight.crow, weight.col, index, *weight.shape)
    return backend.run(x, packed, activation)


def check_bits(product: Callable[[], Tensor]) -> None:
    """A hundred calls, on 1, 2, 4 and 8 threads in turn, give the same bits."""
    torch.set_num_threads(1)
    want = product()
    for threads in (1, 2, 4, 8):
        torch.set_num_threads(threads)
        for _ in range(25):
            assert torch.equal(product(), want), f"{threads} threads"


def check_forward(
    backend: Backend, case: truth.Case, dtype: torch.dtype, batch: int, with_bias: bool
) -> None:
    weight, dense = make_problem(case, dtype)
    x = torch.randn(batch, case.k, dtype=torch.float64).to(dtype)
    bias = torch.randn(case.n, dtype=torch.float64).to(dtype) if with_bias else None
    got = run(backend, weight, x, bias)
    assert got.dtype is dtype and got.is_contiguous()
    truth.assert_close(got, truth.linear(x, dense, bias), truth.bound(x, dense, bias, dtype))


def check_gradients(kernel: Kernel, case: truth.Case, dtype: torch.dtype, batch: int) -> None:
    """Gradients of input, values and bias for a random gradient of the output, against autograd of the
    truth."""
    weight, dense = make_problem(case, dtype)
    x = torch.randn(batch, case.k, dtype=torch.float64).to(dtype)
    bias = torch.randn(case.n, dtype=torch.float64).to(dtype)
    grad = torch.randn(batch, case.n, dtype=torch.float64).to(dtype)
    leaves = [t.clone().requires_grad_() for t in (x, weight.values, bias)]
    sparse = BlockSparse.trusted(weight.shape, weight.crow, weight.col, leaves[1])
    linear(leaves[0], sparse, leaves[2], make_plan(weight, Choice(kernel, ()))).backward(grad)
    to_x, to_values, to_bias = (leaf.grad for leaf in leaves)
    assert to_x is not None and to_values is not None and to_bias is not None
    up, xs = grad.double(), x.double()
    truth.assert_close(to_x, up @ dense, truth.bound(grad, dense.T, None, dtype))
    truth.assert_close(to_bias, up.sum(0), truth.bound(torch.ones(1, batch), up.T, None, dtype)[0])
    spread = BlockSparse.trusted(weight.shape, weight.crow, weight.col, to_values.double()).to_dense()
    want = torch.where(weight.mask(), up.T @ xs, 0.0)
    truth.assert_close(spread, want, truth.bound(up.T, xs.T, None, dtype))
