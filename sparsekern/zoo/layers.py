"""Layers whose weights a given generator draws, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Draw = Callable[[Tensor, "torch.Generator | None"], object]
"""Fills a weight (outputs, inputs, ...) in place."""


def glorot(weight: Tensor, generator: torch.Generator | None) -> None:
    """Gaussian, variance 2 / (fan in + fan out): Glorot & Bengio 2010."""
    nn.init.xavier_normal_(weight, generator=generator)


def he(weight: Tensor, generator: torch.Generator | None) -> None:
    """Gaussian, variance 2 / fan out: He et al. 2015, arXiv 1502.01852, section 2.2."""
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)


def usual(weight: Tensor, generator: torch.Generator | None) -> None:
    """Uniform, what torch's own layers start from."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def gaussian(weight: Tensor, generator: torch.Generator | None, std: float = 0.02) -> None:
    """Gaussian of one deviation for all sizes, as in GPT-2."""
    nn.init.normal_(weight, std=std, generator=generator)


def scaled(size: int, width: float) -> int:
    """`size` hidden units, or channels, times `width`, and at least one; ValueError unless width > 0."""
    if not 0 < width < math.inf:
        raise ValueError(f"width must be a positive factor, got {width!r}")
    return max(1, round(size * width))


def linear(inputs: int, outputs: int, generator: torch.Generator | None, draw: Draw = glorot) -> nn.Linear:
    """A linear layer; its bias starts at zero."""
    # Through "meta", since nn.Linear itself would draw from torch's default generator.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    draw(layer.weight, generator)
    nn.init.zeros_(layer.bias)
    return layer


class Convs:
    """Makes convolutions that are drawn alike, from one generator, in the order in which they are made."""

    def __init__(self, generator: torch.Generator | None, draw: Draw = glorot, bias: bool = False) -> None:
        self.generator, self.draw, self.bias = generator, draw, bias

    def __call__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None
    ) -> nn.Conv2d:
        """Padded by half a kernel if nothing else is said; a bias starts at zero."""
        padding = kernel // 2 if padding is None else padding
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=self.bias, device="meta")
        layer = layer.to_empty(device="cpu")
        self.draw(layer.weight, self.generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer
