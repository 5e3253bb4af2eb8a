"""Problems and rivals of the linear benchmarks: what is computed, by whom, and whether it is right."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekern.bench import DENSE
from sparsekern.masks import expand, grid
from sparsekern.nn import SparseLinear

TINY = os.environ.get("SPARSEKERN_BENCH_TINY") == "1"
"""Small enough for a test run; the times mean nothing then."""

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """y = x W^T + b with x (m, k), W (n, k), whole blocks of W zero."""

    m: int
    n: int
    k: int
    sparsity: float
    block: tuple[int, int]

    def __str__(self) -> str:
        return f"m{self.m}-n{self.n}-k{self.k}-{100 * self.sparsity:g}%-{self.block[0]}x{self.block[1]}"

    def tensors(self, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """(W, b, x), random float32; exactly the rounded share of the blocks is zero."""
        generator = torch.Generator().manual_seed(seed)
        rows, columns = grid((self.n, self.k), self.block)
        alive = torch.zeros(rows * columns, dtype=torch.bool)
        kept = rows * columns - round(self.sparsity * rows * columns)
        alive[torch.randperm(rows * columns, generator=generator)[:kept]] = True
        mask = expand(alive.view(rows, columns), torch.Size((self.n, self.k)), self.block)
        weight = torch.randn(self.n, self.k, generator=generator) * mask
        return (
            weight,
            torch.randn(self.n, generator=generator),
            torch.randn(self.m, self.k, generator=generator),
        )


def _full_size() -> tuple[Case, ...]:
    square = [
        Case(m, 1024, 1024, sparsity, block)
        for sparsity in (0.8, 0.9, 0.95)
        for block in ((1, 1), (16, 1))
        for m in (1, 32, 256)
    ]
    return (*square, Case(256, 300, 784, 0.9, (1, 1)), Case(256, 4096, 1024, 0.9, (16, 1)))


CASES = (Case(5, 48, 40, 0.9, (1, 1)), Case(5, 48, 40, 0.9, (16, 1))) if TINY else _full_size()


def _dense(name: str, weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    return DENSE[name](weight, bias, x)


def _csr_matmul(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    csr = weight.to_sparse_csr()
    return lambda x: (csr @ x.T).T + bias


def _csr_linear(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    csr = weight.to_sparse_csr()
    return lambda x: F.linear(x, csr, bias)


def _bsr_linear(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    if weight.shape[0] % block[0] or weight.shape[1] % block[1]:
        return f"BSR takes whole blocks, not {block} in {tuple(weight.shape)}"
    bsr = weight.to_sparse_bsr(block)
    try:
        F.linear(x, bsr, bias)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return lambda x: F.linear(x, bsr, bias)


def _sparsekern(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return SparseLinear.from_dense(linear, block=block)


RIVALS: dict[str, Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Call | str]] = {
    "torch": partial(_dense, "torch"),
    "onednn": partial(_dense, "onednn"),
    "csr_matmul": _csr_matmul,
    "csr_linear": _csr_linear,
    "bsr_linear": _bsr_linear,
    "sparsekern": _sparsekern,
}
"""name -> prepare(weight, bias, x, block), a call, or the refusal in words. A new rival is one line here."""


def prepare(rival: str, case: Case, weight: Tensor, bias: Tensor, x: Tensor) -> Call | str:
    """The rival's call for this weight, or its refusal in words."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR|BSR) tensor support is in beta")
        return RIVALS[rival](weight, bias, x, case.block)


def check(call: Call, weight: Tensor, bias: Tensor, x: Tensor) -> float:
    """Largest absolute error against float64, to be asked for before any clock starts.

    ValueError for an element that is further off than float32 can explain for k products.
    """
    truth = F.linear(x.double(), weight.double(), bias.double())
    eps = torch.finfo(torch.float32).eps
    limit = (weight.shape[1] + 2) * eps * F.linear(x.abs(), weight.abs(), bias.abs())
    error = (call(x).double() - truth).abs()
    if not bool((error <= limit).all()):
        raise ValueError(
            f"wrong by up to {float(error.max()):.1e}, expected at most {float(limit.max()):.1e}"
        )
    return float(error.max())
