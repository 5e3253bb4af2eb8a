"""What a sparse layer must compute: the masked dense layer in float64. Written apart from the package.

Also the one tolerance of all numeric tests, and the shapes that the kernel tests walk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def masked_weight(
    n: int, k: int, block: tuple[int, int], sparsity: float, generator: torch.Generator
) -> Tensor:
    """float64 (n, k): whole blocks of normal values survive with probability 1 - sparsity."""
    rows, columns = -(-n // block[0]), -(-k // block[1])
    alive = torch.rand(rows, columns, generator=generator) >= sparsity
    alive = alive.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:n, :k]
    return torch.where(alive, torch.randn(n, k, generator=generator, dtype=torch.float64), 0.0)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = x.double() @ weight.double().T
    return y if bias is None else y + bias.double()


def bound(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """How far a sum of k products may be off, componentwise: 2 gamma_{k+2} (|x| |W|ᵀ + |b|), gamma_j = j u /
    (1 - j u).

    u is the unit roundoff of float32 where sums are made in it, plus one rounding to ``dtype`` (Higham 2002,
    section 3.1). On top comes only the spacing of subnormal numbers: a result of exact zero must be exact to
    that.
    """
    steps = weight.shape[1] + 2
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    unit = torch.finfo(sums).eps / 2
    gamma = steps * unit / (1 - steps * unit)
    rounding = 0.0 if dtype is sums else torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return (2 * gamma + rounding) * linear(x.abs(), weight.abs(), None if bias is None else bias.abs()) + tiny


def assert_close(got: Tensor, want: Tensor, limit: Tensor) -> None:
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    error = (got.double() - want).abs()
    worst = int((error - limit).argmax()) if error.numel() else 0
    assert bool((error <= limit).all()), (
        f"off by {error.flatten()[worst]:.3g} where {limit.flatten()[worst]:.3g} is allowed, "
        f"element {worst} of {tuple(want.shape)}"
    )


@dataclass(frozen=True)
class Case:
    n: int
    k: int
    block: tuple[int, int]
    sparsity: float

    def __str__(self) -> str:
        return f"{self.n}x{self.k}-{self.block[0]}x{self.block[1]}-{self.sparsity}"


CASES = (
    Case(1, 1, (1, 1), 0.0),  # one weight
    Case(16, 1, (16, 1), 0.0),  # one block
    Case(1, 70, (1, 1), 0.5),  # one output
    Case(70, 1, (1, 1), 0.5),  # one input
    Case(37, 53, (1, 1), 0.9),  # nothing divides anything
    Case(130, 200, (1, 1), 0.95),  # several panels of columns, most runs empty
    Case(64, 64, (1, 1), 0.0),  # full
    Case(40, 30, (1, 1), 1.0),  # all zero
    Case(20, 1000, (1, 1), 0.8),  # more columns than one panel in L1 holds at any batch
    Case(2100, 40, (1, 1), 0.9),  # more outputs than one pass of partial sums
    Case(33, 20, (5, 1), 0.5),  # short blocks, ragged
    Case(64, 48, (8, 1), 0.8),
    Case(61, 48, (8, 1), 0.8),  # ragged last block
    Case(100, 77, (16, 1), 0.9),
    Case(48, 64, (16, 1), 0.0),
    Case(48, 64, (16, 1), 1.0),
    Case(90, 33, (24, 1), 0.7),  # one and a half vectors
    Case(96, 50, (32, 1), 0.9),
    Case(70, 40, (70, 1), 0.5),  # dead inputs: one block row
    Case(75, 40, (50, 1), 0.5),
    Case(40, 36, (4, 4), 0.7),
    Case(16, 2, (16, 2), 0.0),  # one block of pairs
    Case(61, 77, (16, 2), 0.5),  # ragged on both edges
    Case(48, 64, (16, 2), 1.0),
    Case(90, 200, (32, 2), 0.9),
    Case(130, 95, (48, 2), 0.7),  # three vectors
    Case(50, 70, (1, 70), 0.5),  # dead outputs
    Case(64, 64, (32, 32), 0.5),
)

BATCHES = (1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 33, 64, 65, 100, 130)
"""One row, every way to fill vectors of 4, 8 and 16 lanes badly, more than one tile."""
