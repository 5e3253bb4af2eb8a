"""A network small enough for every second derivative, in float64, with two batches of unequal size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsekern.masks import mask_
from sparsekern.prune.criteria import CRITERIA, Context


class Tiny:
    """A convolution with stride, padding and groups, a tanh, a pooling and a linear layer; 72 weights."""

    names = ("0.weight", "4.weight")

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(7)
        self.model = nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=1, groups=2),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        ).double()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) / 2)
        self.batches = [
            (
                torch.randn(size, 2, 4, 6, generator=draw, dtype=torch.float64),
                torch.randint(3, (size,), generator=draw),
            )
            for size in (3, 2)
        ]

    def context(self) -> Context:
        """A new step."""
        return Context(torch.Generator().manual_seed(0), self.model, self.batches)

    def weights(self) -> dict[str, Tensor]:
        """The effective weights."""
        return {name: self.model.get_submodule(name[0]).weight.detach() for name in self.names}

    def scores(self, criterion: str) -> Tensor:
        """All scores of the criterion, flat, in float64."""
        context = self.context()
        found = [CRITERIA[criterion](w, context.of(name)) for name, w in self.weights().items()]
        assert all(score.dtype is torch.float32 for score in found)
        return torch.cat([score.flatten() for score in found]).double()

    def flat(self) -> Tensor:
        """All effective weights, flat."""
        return torch.cat([weight.flatten() for weight in self.weights().values()])

    def loss(self, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
        """The mean cross-entropy over all five samples as a function of the flat weights."""
        plain = Tiny().model
        inputs, targets = (torch.cat(parts) for parts in zip(*self.batches, strict=True))

        def at(flat: Tensor) -> Tensor:
            first = self.weights()["0.weight"]
            split = {
                "0.weight": flat[: first.numel()].reshape(first.shape),
                "4.weight": flat[first.numel() :].reshape(3, 16),
            }
            return nn.functional.cross_entropy(functional_call(plain, split, (inputs,)) * scale, targets)

        return at

    def mask(self) -> Tensor:
        """Put masks on both layers; returns them flat."""
        draw = torch.Generator().manual_seed(3)
        for name, weight in self.weights().items():
            mask_(self.model.get_submodule(name[0]), torch.rand(weight.shape, generator=draw) < 0.6)
        return self.flat() != 0


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()
