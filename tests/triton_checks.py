"""How one launch of a Triton kernel is checked against the truth, in the interpreter or on a GPU."""

from __future__ import annotations

import torch
import truth
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import ACTIVATIONS, PackedWeight
from sparsekern.kernels.triton import bsr_linear
from sparsekern.kernels.triton.launch import Launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CASES = (
    truth.Case(16, 16, (16, 16), 0.0),  # one block
    truth.Case(100, 72, (16, 16), 0.5),  # ragged on both edges
    truth.Case(72, 200, (32, 16), 0.7),
    truth.Case(64, 96, (32, 32), 1.0),  # all zero
    truth.Case(136, 200, (64, 16), 0.6),  # ragged, empty block rows
    truth.Case(130, 70, (64, 64), 0.3),  # rows that no tensor descriptor takes
    truth.Case(128, 128, (64, 32), 0.0),  # full
    truth.Case(256, 128, (128, 64), 0.5),
    truth.Case(136, 256, (16, 128), 0.4),
    truth.Case(256, 136, (128, 128), 0.4),
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = (1, 5, 16, 17, 33, 64, 130)
"""One row, tiles of 16, 32 and 64 rows that are full and that are not, and several tiles."""


def make(case: truth.Case, dtype: torch.dtype, with_bias: bool = True) -> tuple[PackedWeight, Tensor]:
    """The weight as the kernels take it, and the same as a dense float64 matrix."""
    generator = torch.Generator().manual_seed(case.n * 1000 + case.k)
    dense = truth.masked_weight(case.n, case.k, case.block, case.sparsity, generator).to(dtype).to(DEVICE)
    weight = BlockSparse.from_dense(dense, case.block)
    bias = torch.randn(case.n, generator=generator).to(dtype).to(DEVICE) if with_bias else None
    index = bsr_linear.linear.pack(weight)
    packed = PackedWeight(weight.values, bias, weight.crow, weight.col, index, *weight.shape)
    return packed, dense.double()


def rows(m: int, k: int, dtype: torch.dtype) -> Tensor:
    """Normal values (m, k)."""
    return torch.randn(m, k, dtype=torch.float64).to(dtype).to(DEVICE)


def check_forward(
    weight: PackedWeight, dense: Tensor, m: int, launch: Launch | None, activation: str | None = None
) -> None:
    x = rows(m, weight.k, weight.values.dtype)
    got = bsr_linear.product(
        x, bsr_linear.matrix_of(weight), weight.bias, ACTIVATIONS.index(activation), launch
    )
    assert got.dtype is x.dtype and got.is_contiguous()
    sums = truth.linear(x, dense, weight.bias)
    limit = truth.bound(x, dense, weight.bias, x.dtype)
    if activation is None:
        truth.assert_close(got, sums, limit)
    else:  # slopes stay below 1.2; erf in float32 is off by some units of its last place
        want = getattr(torch.nn.functional, activation)(sums)
        truth.assert_close(got, want, 1.2 * limit + 1e-6 * sums.abs())


def check_grad_input(weight: PackedWeight, dense: Tensor, m: int, launch: Launch | None) -> None:
    grad = rows(m, weight.n, weight.values.dtype)
    got = bsr_linear.product(grad, bsr_linear.matrix_of(weight, transposed=True), None, 0, launch)
    truth.assert_close(got, grad.double() @ dense, truth.bound(grad, dense.T, None, grad.dtype))


def check_grad_values(weight: PackedWeight, m: int, launch: Launch | None) -> None:
    dtype = weight.values.dtype
    grad, x = rows(m, weight.n, dtype), rows(m, weight.k, dtype)
    got = bsr_linear.values_gradient(grad, x, weight, launch)
    matrix = BlockSparse.trusted((weight.n, weight.k), weight.crow, weight.col, got.double())
    want = torch.where(matrix.mask(), grad.double().T @ x.double(), 0.0)
    limit = truth.bound(grad.double().T, x.double().T, None, dtype)
    truth.assert_close(matrix.to_dense(), want, limit)
