"""What is timed: one product, its sizes, its tensors, and how far a result may be from the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekern.cli.bench.presets import Pair
from sparsekern.masks import expand, fit_block, grid

Call = Callable[[Tensor], Tensor]

Tensors = tuple[Tensor, Tensor, Tensor]
"""Weight, bias, x. Of a linear layer (n, k), (n,), (m, k)."""


@dataclass(frozen=True)
class Truth:
    """`y` in float64, and `limit`, of the same shape: how far from it rounding can lead. `loose`, where there
    is one, is the limit for algorithms that round more."""

    y: Tensor
    limit: Tensor
    loose: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, x: Tensor) -> Truth:
        """Of a linear layer: see `rounding_limit`."""
        scale = F.linear(x.abs().double(), weight.abs().double(), bias.abs().double())
        limit = rounding_limit(scale, weight.shape[1], x.dtype)
        return cls(F.linear(x.double(), weight.double(), bias.double()), limit)

    @classmethod
    def of_int8(cls, weight: Tensor, bias: Tensor, x: Tensor) -> Truth:
        """The limit is a step of int8 for each x and each weight, the coarsest of all rivals': one scale in
        all for x and for the weight, 7 bits for x."""
        step_x, step_weight = float(x.abs().max()) / 127, float(weight.abs().max()) / 127
        terms = step_x * weight.abs().sum(1) + step_weight * x.abs().sum(1, keepdim=True)
        limit = terms + step_x * step_weight * weight.shape[1]
        return cls(F.linear(x.double(), weight.double(), bias.double()), limit.double())

    def check(self, got: Tensor, dtype: torch.dtype, loose: bool = False) -> float:
        """Largest absolute error of `got`, to be asked for before any clock starts.

        ValueError for another shape or dtype, and for an element further off than rounding explains; `loose`
        says by which limit.
        """
        got = got.to_dense()  # a rival's own layout may be opaque
        if got.shape != self.y.shape or got.dtype != dtype:
            raise ValueError(f"gave {got.dtype} {tuple(got.shape)}, expected {dtype} {tuple(self.y.shape)}")
        limit = self.loose if loose and self.loose is not None else self.limit
        error = (got.double() - self.y).abs()
        if not bool((error <= limit).all()):
            worst = int((error - limit).nan_to_num(torch.inf).argmax())
            raise ValueError(
                f"wrong by {float(error.flatten()[worst]):.1e}, "
                f"expected at most {float(limit.flatten()[worst]):.1e}"
            )
        return float(error.max())


def rounding_limit(scale: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """How far sums of k products may be off; `scale`, in float64, is |x| |W|^T + |b|.

    2 gamma_{k+2} of it, gamma_j = j u / (1 - j u), u the unit roundoff of float32, in which sums are made
    (Higham 2002, section 3.1); a lower precision adds the rounding of its output, and every one its smallest
    step.
    """
    steps, kind = k + 2, torch.finfo(dtype)
    unit = torch.finfo(torch.float32).eps / 2
    gamma = steps * unit / (1 - steps * unit)
    rounding = 0.0 if dtype is torch.float32 else kind.eps
    return (2 * gamma + rounding) * scale + kind.smallest_normal * kind.eps


class Case(Protocol):
    """One product to time, whatever computes it: what the table, the records and the limit ask of it."""

    op: ClassVar[str]
    """What is computed: the name of the command and of the records."""
    dense_rivals: ClassVar[Sequence[str]]
    """Those among which the best dense one is found."""
    csr_rivals: ClassVar[Sequence[str]]
    """Those that compute with torch's own CSR."""
    first_column: ClassVar[str]
    """What `sizes` says, in a table's head."""

    @property
    def sparsity(self) -> float:
        """The share of zeros in the weight."""

    @property
    def block(self) -> Pair:
        """Of the weight as a matrix, (out, in)."""

    @property
    def dtype(self) -> str:
        """torch's name of it, or int8."""

    @property
    def sizes(self) -> str:
        """The sizes, for the table."""

    @property
    def family(self) -> str:
        """What cases that differ in nothing but their sparsity have in common, in words."""

    @property
    def rows(self) -> int:
        """How often each weight is used."""

    @property
    def moved(self) -> int:
        """Numbers in x and y together."""

    def tensors(self, mask: Tensor | None = None, seed: int = 0) -> Tensors:
        """Weight, bias, x, of normal values; the weight lives where `mask` is true."""

    def truth(self, tensors: Tensors) -> Truth:
        """What is right."""

    def prepare(self, rival: str, tensors: Tensors) -> Call | str:
        """The rival's call, called once, or its refusal in words."""

    def kernel_of(self, call: Call) -> str:
        """Which kernel sparsekern's call runs."""


def random_mask(shape: Sequence[int], block: Pair, sparsity: float, generator: torch.Generator) -> Tensor:
    """bool of a weight's shape; exactly the rounded share of its blocks, drawn at random, is false."""
    size = torch.Size(shape)
    rows, columns = grid(size, block)
    alive = torch.zeros(rows * columns, dtype=torch.bool)
    kept = rows * columns - round(sparsity * rows * columns)
    alive[torch.randperm(rows * columns, generator=generator)[:kept]] = True
    return expand(alive.view(rows, columns), size, block)


def check_fit(block: Pair, shape: Pair) -> None:
    """ValueError for a block that is larger than the weight as a matrix."""
    if fit_block(block, shape) != block:
        raise ValueError(
            f"block {block[0]}x{block[1]} does not fit into a weight of {shape[0]}x{shape[1]}, "
            "expected one that is not larger"
        )
