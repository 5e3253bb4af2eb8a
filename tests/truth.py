"""What a sparse layer must compute: the masked dense layer in float64. Written apart from the package.

Also the one tolerance of all numeric tests, and the shapes that the kernel tests walk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


def conv2d(conv: nn.Conv2d, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """torch's own convolution in float64, in the layer's own padding mode, then the residual."""
    bias = None if conv.bias is None else conv.bias.detach().double()
    y = conv._conv_forward(x.double(), conv.weight.detach().double(), bias)
    return y if residual is None else y + residual.double()


def bound(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """How far a linear layer's sums may be off, componentwise."""
    magnitude = linear(x.abs(), weight.abs(), None if bias is None else bias.abs())
    return off_by(magnitude, weight.shape[1] + 2, dtype)


def conv_bound(conv: nn.Conv2d, x: Tensor, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The same of a convolution, whose residual is one term more."""
    bias = None if conv.bias is None else conv.bias.detach().abs().double()
    magnitude = conv._conv_forward(x.abs().double(), conv.weight.detach().abs().double(), bias)
    if residual is not None:
        magnitude = magnitude + residual.abs().double()
    return off_by(magnitude, conv.weight[0].numel() + 3, dtype)


def off_by(magnitude: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """2 gamma_steps of ``magnitude``, the sum of the terms' absolute values (as |x| |W|ᵀ + |b|) in float64;
    gamma_j = j u / (1 - j u).

    u is the unit roundoff of float32 where sums are made in it, plus one rounding to ``dtype`` (Higham 2002,
    section 3.1). On top comes only the spacing of subnormal numbers: a result of exact zero must be exact to
    that.
    """
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    unit = torch.finfo(sums).eps / 2
    gamma = steps * unit / (1 - steps * unit)
    rounding = 0.0 if dtype is sums else torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return (2 * gamma + rounding) * magnitude + tiny


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


@dataclass(frozen=True)
class ConvCase:
    """A convolution whose weight, as a matrix (out, k), is zero in whole blocks of ``pattern``, by default of
    ``block``, in which it is stored. ``map`` is (height, width) of the input."""

    out: int
    in_: int
    kernel: tuple[int, int]
    block: tuple[int, int]
    sparsity: float
    map: tuple[int, int] = (9, 8)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    mode: str = "zeros"
    pattern: tuple[int, int] | None = None

    def __str__(self) -> str:
        parts = [f"{self.out}x{self.in_}x{self.kernel[0]}x{self.kernel[1]}", *map(str, self.block)]
        parts += [str(self.sparsity), f"{self.map[0]}x{self.map[1]}", f"s{self.stride}", f"p{self.padding}"]
        parts += [f"d{self.dilation}", f"g{self.groups}", self.mode, str(self.pattern or "")]
        return "-".join(parts).replace(" ", "").replace("'", "")

    def conv(self, dtype: torch.dtype, bias: bool = True) -> nn.Conv2d:
        """The dense layer with its zeros, rounded to ``dtype``; the same in every call."""
        generator = torch.Generator().manual_seed(self.out * 1000 + self.in_)
        how = (self.stride, self.padding, self.dilation, self.groups, bias, self.mode)
        conv = nn.Conv2d(self.in_, self.out, self.kernel, *how, dtype=dtype)
        n, k = self.out, conv.weight[0].numel()
        high, wide = self.pattern or self.block
        weight = masked_weight(n, k, (high, wide), self.sparsity, generator)
        out, inner, kh, kw = conv.weight.shape
        if high > 1 and wide > 1 and wide % (kh * kw):  # blocks of channels at one place of the kernel
            weight = weight.view(out, kh, kw, inner).permute(0, 3, 1, 2)
        with torch.no_grad():
            conv.weight.copy_(weight.reshape(conv.weight.shape))
            if conv.bias is not None:
                conv.bias.copy_(torch.randn(n, generator=generator, dtype=torch.float64))
        return conv.requires_grad_(False)


ONE, TWO, THREE = (1, 1), (2, 2), (3, 3)
CONV_CASES = (
    ConvCase(1, 1, ONE, ONE, 0.0, map=ONE),  # one weight, one pixel
    ConvCase(1, 1, THREE, ONE, 0.5, map=ONE, padding=ONE),  # the kernel sees padding all around
    ConvCase(5, 3, THREE, ONE, 0.5, map=(3, 3)),  # one output position
    ConvCase(37, 13, THREE, ONE, 0.9, map=(11, 13), padding=ONE),  # nothing divides anything
    ConvCase(16, 16, THREE, ONE, 0.0, map=(8, 8), padding=ONE),  # full
    ConvCase(16, 16, THREE, ONE, 1.0, map=(8, 8), padding=ONE),  # all zero
    ConvCase(40, 70, ONE, ONE, 0.8, map=(10, 10)),  # pointwise, best as a line
    ConvCase(40, 70, ONE, ONE, 0.8, map=(33, 17), stride=TWO),
    ConvCase(20, 64, THREE, ONE, 0.9, map=(14, 14), padding=ONE),  # many channels
    ConvCase(12, 3, (7, 7), ONE, 0.6, map=(33, 17), stride=TWO, padding=(3, 3)),  # the first of a ResNet
    ConvCase(12, 4, (5, 5), ONE, 0.6, map=(17, 33), padding="same"),
    ConvCase(12, 4, (4, 2), ONE, 0.5, map=(9, 10), padding="same"),  # one more at the bottom and the right
    ConvCase(12, 4, (2, 4), ONE, 0.5, map=(9, 10), padding="same", dilation=(3, 1)),
    ConvCase(12, 4, (1, 5), ONE, 0.5, map=(6, 9), padding=(0, 2), stride=(2, 1)),
    ConvCase(12, 4, (5, 1), ONE, 0.5, map=(9, 6), padding=(2, 0), stride=(1, 3)),
    ConvCase(12, 5, (1, 3), ONE, 0.6, map=(1, 100), padding=(0, 1)),  # a line, which is cut into rows
    ConvCase(24, 5, (1, 4), (8, 1), 0.6, map=(1, 77), stride=TWO, padding=(0, 4), dilation=(1, 2)),
    ConvCase(12, 9, ONE, (3, 1), 0.6, map=(1, 45)),
    ConvCase(12, 4, (1, 2), ONE, 0.6, map=(1, 20), stride=(3, 3)),  # a line shorter than most batches
    ConvCase(9, 6, THREE, ONE, 0.7, map=(15, 16), stride=THREE, padding=TWO, dilation=TWO),
    ConvCase(9, 6, THREE, ONE, 0.7, map=(15, 16), dilation=(2, 1), padding="valid"),
    ConvCase(9, 6, THREE, ONE, 0.7, map=(2, 33), padding=(5, 4)),  # more padding than map
    ConvCase(9, 6, ONE, ONE, 0.7, map=(5, 4), stride=THREE, padding=TWO),  # steps over the map
    ConvCase(24, 8, THREE, ONE, 0.9, map=(8, 8), padding=ONE, pattern=(1, 72)),  # dead outputs
    ConvCase(24, 8, THREE, ONE, 0.6, map=(8, 8), padding=ONE, pattern=(24, 9)),  # dead channels
    ConvCase(24, 8, THREE, (8, 1), 0.6, map=(8, 8), padding=ONE, pattern=(24, 9)),
    ConvCase(33, 7, THREE, (2, 1), 0.7, map=(6, 35), padding=ONE),  # short blocks, ragged
    ConvCase(32, 7, THREE, (3, 1), 0.7, map=(19, 5), stride=TWO, padding=ONE),
    ConvCase(33, 7, THREE, (4, 1), 0.7, map=(6, 7), padding=ONE),
    ConvCase(61, 9, THREE, (8, 1), 0.8, map=(10, 10), padding=ONE),
    ConvCase(100, 5, (5, 5), (16, 1), 0.9, map=(14, 9), stride=TWO, padding=TWO),
    ConvCase(96, 20, ONE, (32, 1), 0.8, map=(7, 7)),
    ConvCase(70, 6, THREE, (70, 1), 0.5, map=(7, 7), padding=ONE),  # one block row
    ConvCase(75, 6, THREE, (50, 1), 1.0, map=(7, 7), padding=ONE),
    ConvCase(20, 12, THREE, (1, 9), 0.8, map=(8, 9), padding=ONE),  # whole kernels
    ConvCase(20, 12, THREE, (1, 108), 0.5, map=(8, 9), padding=ONE),  # whole filters
    ConvCase(20, 12, (2, 2), (1, 4), 0.8, map=(8, 9), stride=TWO),
    ConvCase(20, 6, THREE, (4, 4), 0.7, map=(8, 9), padding=ONE),  # the reference alone
    ConvCase(20, 5, THREE, (1, 7), 0.7, map=(8, 9), padding=ONE),  # ragged across
    ConvCase(61, 6, THREE, (16, 2), 0.6, map=(8, 9), padding=ONE),  # pairs of channels, ragged
    ConvCase(80, 40, (3, 2), (32, 2), 0.8, map=(13, 11), stride=(2, 1), padding="valid", dilation=(1, 2)),
    ConvCase(48, 70, ONE, (48, 2), 0.8, map=(5, 7)),
    ConvCase(16, 4, (5, 5), (16, 2), 1.0, map=(9, 8), padding=TWO),
    ConvCase(16, 7, THREE, (16, 2), 0.5, map=(5, 5)),  # the reference alone: channels are odd
    ConvCase(16, 8, (1, 2), (16, 2), 0.5, map=(5, 5)),  # and here a block is a kernel
    ConvCase(20, 8, THREE, ONE, 0.7, map=(8, 9), padding=ONE, groups=2),
    ConvCase(16, 16, THREE, (2, 1), 0.7, map=(8, 9), padding=ONE, groups=16),
)

CONV_BATCHES = (1, 2, 3, 16, 17)
