"""One product `y = x W^T + b`: its sizes, its tensors, and how far a result may be from the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekern.cli.bench.presets import Grid, Pair, Preset
from sparsekern.masks import expand, fit_block, grid

Tensors = tuple[Tensor, Tensor, Tensor]
"""W (n, k), b (n,), x (m, k)."""


@dataclass(frozen=True)
class Case:
    """y = x W^T + b with x (m, k), W (n, k), whole blocks of W zero; `dtype` is torch's name of it; int8
    is made from float32, by each rival itself."""

    m: int
    n: int
    k: int
    sparsity: float
    block: Pair
    dtype: str = "float32"

    def __str__(self) -> str:
        share = f"{100 * self.sparsity:.4g}%"
        return f"m{self.m}-n{self.n}-k{self.k}-{share}-{self.block[0]}x{self.block[1]}-{self.dtype}"

    def tensors(self, mask: Tensor | None = None, seed: int = 0) -> Tensors:
        """(W, b, x), normal values. W lives where `mask`, bool (n, k), is true; without one exactly the
        rounded share of its blocks, drawn at random, is zero."""
        generator = torch.Generator().manual_seed(seed)
        mask = self._mask(generator) if mask is None else mask
        dtype: torch.dtype = torch.float32 if self.dtype == "int8" else getattr(torch, self.dtype)
        weight = torch.randn(self.n, self.k, generator=generator) * mask
        bias = torch.randn(self.n, generator=generator)
        x = torch.randn(self.m, self.k, generator=generator)
        return weight.to(dtype), bias.to(dtype), x.to(dtype)

    def _mask(self, generator: torch.Generator) -> Tensor:
        shape = torch.Size((self.n, self.k))
        rows, columns = grid(shape, self.block)
        alive = torch.zeros(rows * columns, dtype=torch.bool)
        kept = rows * columns - round(self.sparsity * rows * columns)
        alive[torch.randperm(rows * columns, generator=generator)[:kept]] = True
        return expand(alive.view(rows, columns), shape, self.block)


def cases(preset: Preset, given: Mapping[str, object]) -> list[Case]:
    """The preset's cases, each once; `given` (field of Grid -> value) replaces what its grids say.

    ValueError for a block that does not fit into a shape.
    """
    found = [case for one in preset.grids for case in _cases(replace(one, **given))]  # type: ignore[arg-type]
    return list(dict.fromkeys(found))


def _cases(of: Grid) -> list[Case]:
    for shape, block in product(of.shapes, of.blocks):
        if fit_block(block, shape) != block:
            raise ValueError(
                f"block {block[0]}x{block[1]} does not fit into a weight of {shape[0]}x{shape[1]}, "
                "expected one that is not larger"
            )
    return [
        Case(m, *shape, sparsity, block, of.dtype)
        for shape, block, m, sparsity in product(of.shapes, of.blocks, of.batches, of.sparsities)
    ]


@dataclass(frozen=True)
class Truth:
    """`y` (m, n) in float64, and `limit` (m, n): how far from it rounding can lead."""

    y: Tensor
    limit: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, x: Tensor) -> Truth:
        """The limit is 2 gamma_{k+2} (|x| |W|^T + |b|), gamma_j = j u / (1 - j u), u the unit roundoff of
        float32, in which sums are made (Higham 2002, section 3.1); a lower precision adds the rounding of
        its output, and every one its smallest step."""
        steps, kind = weight.shape[1] + 2, torch.finfo(x.dtype)
        unit = torch.finfo(torch.float32).eps / 2
        gamma = steps * unit / (1 - steps * unit)
        rounding = 0.0 if x.dtype is torch.float32 else kind.eps
        scale = F.linear(x.abs().double(), weight.abs().double(), bias.abs().double())
        limit = (2 * gamma + rounding) * scale + kind.smallest_normal * kind.eps
        return cls(F.linear(x.double(), weight.double(), bias.double()), limit)

    @classmethod
    def of_int8(cls, weight: Tensor, bias: Tensor, x: Tensor) -> Truth:
        """The limit is a step of int8 for each x and each weight, the coarsest of all rivals': one scale in
        all for x and for the weight, 7 bits for x."""
        step_x, step_weight = float(x.abs().max()) / 127, float(weight.abs().max()) / 127
        terms = step_x * weight.abs().sum(1) + step_weight * x.abs().sum(1, keepdim=True)
        limit = terms + step_x * step_weight * weight.shape[1]
        return cls(F.linear(x.double(), weight.double(), bias.double()), limit.double())

    def check(self, got: Tensor, dtype: torch.dtype) -> float:
        """Largest absolute error of `got` (m, n), to be asked for before any clock starts.

        ValueError for another shape or dtype, and for an element further off than rounding explains.
        """
        if got.shape != self.y.shape or got.dtype != dtype:
            raise ValueError(f"gave {got.dtype} {tuple(got.shape)}, expected {dtype} {tuple(self.y.shape)}")
        error = (got.double() - self.y).abs()
        if not bool((error <= self.limit).all()):
            worst = int((error - self.limit).nan_to_num(torch.inf).argmax())
            raise ValueError(
                f"wrong by {float(error.flatten()[worst]):.1e}, "
                f"expected at most {float(self.limit.flatten()[worst]):.1e}"
            )
        return float(error.max())
