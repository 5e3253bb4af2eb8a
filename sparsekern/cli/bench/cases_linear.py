"""Linear layers to time: y = x W^T + b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from sparsekern.cli.bench.cases import Call, Tensors, Truth, check_fit, random_mask
from sparsekern.cli.bench.presets import INT8, Grid, Pair, Preset
from sparsekern.cli.bench.rivals import CSR_RIVALS, DENSE_RIVALS, RIVALS, Prepare, prepare
from sparsekern.cli.bench.rivals_int8 import RIVALS_INT8
from sparsekern.nn import QuantizedSparseLinear, SparseLinear


@dataclass(frozen=True)
class LinearCase:
    """y = x W^T + b with x (m, k), W (n, k), whole blocks of W zero; int8 is made from float32, by each rival
    itself."""

    m: int
    n: int
    k: int
    sparsity: float
    block: Pair
    dtype: str = "float32"

    op: ClassVar[str] = "linear"
    dense_rivals: ClassVar[Sequence[str]] = DENSE_RIVALS
    csr_rivals: ClassVar[Sequence[str]] = CSR_RIVALS
    first_column: ClassVar[str] = "m x n x k"

    def __str__(self) -> str:
        share = f"{100 * self.sparsity:.4g}%"
        return f"m{self.m}-n{self.n}-k{self.k}-{share}-{self.block[0]}x{self.block[1]}-{self.dtype}"

    @property
    def sizes(self) -> str:
        """As in m x n x k."""
        return f"{self.m} x {self.n} x {self.k}"

    @property
    def family(self) -> str:
        """Weight, block, batch, dtype."""
        return f"{self.n}x{self.k}, {self.block[0]}x{self.block[1]}, batch {self.m}, {self.dtype}"

    @property
    def rows(self) -> int:
        """Rows of x."""
        return self.m

    @property
    def moved(self) -> int:
        """Numbers in x and y."""
        return self.m * (self.k + self.n)

    def tensors(self, mask: Tensor | None = None, seed: int = 0) -> Tensors:
        """W (n, k), b (n,), x (m, k). W lives where `mask`, bool (n, k), is true; without one exactly the
        rounded share of its blocks, drawn at random, is zero."""
        generator = torch.Generator().manual_seed(seed)
        if mask is None:
            mask = random_mask((self.n, self.k), self.block, self.sparsity, generator)
        dtype: torch.dtype = torch.float32 if self.dtype == INT8 else getattr(torch, self.dtype)
        weight = torch.randn(self.n, self.k, generator=generator) * mask
        bias = torch.randn(self.n, generator=generator)
        x = torch.randn(self.m, self.k, generator=generator)
        return weight.to(dtype), bias.to(dtype), x.to(dtype)

    def truth(self, tensors: Tensors) -> Truth:
        """In float64."""
        return (Truth.of_int8 if self.dtype == INT8 else Truth.of)(*tensors)

    def prepare(self, rival: str, tensors: Tensors) -> Call | str:
        """Out of RIVALS or RIVALS_INT8."""
        table: Mapping[str, Prepare] = RIVALS_INT8 if self.dtype == INT8 else RIVALS
        return prepare(rival, self.block, *tensors, table)

    def kernel_of(self, call: Call) -> str:
        """What runs at m rows."""
        assert isinstance(call, SparseLinear | QuantizedSparseLinear)
        return call.variant(self.m)


def cases(preset: Preset, given: Mapping[str, object]) -> list[LinearCase]:
    """The preset's cases, each once; `given` (field of Grid -> value) replaces what its grids say. Of given
    blocks its grids of int8 take those that int8 computes.

    ValueError for a block that does not fit into a shape.
    """
    grids = [replace(one, **given) for one in preset.grids]  # type: ignore[arg-type]
    if "dtype" not in given:
        grids = [_of_int8(one) if one.dtype == INT8 else one for one in grids]
    return list(dict.fromkeys(case for one in grids for case in _cases(one)))


def _of_int8(of: Grid) -> Grid:
    return replace(of, blocks=tuple(block for block in of.blocks if block[1] == 4 and block[0] % 16 == 0))


def _cases(of: Grid) -> list[LinearCase]:
    for shape, block in product(of.shapes, of.blocks):
        check_fit(block, shape)
    return [
        LinearCase(m, *shape, sparsity, block, of.dtype)
        for shape, block, m, sparsity in product(of.shapes, of.blocks, of.batches, of.sparsities)
    ]
