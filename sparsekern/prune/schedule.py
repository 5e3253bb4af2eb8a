"""Schedules: how sparse the network is to be after each step.

A schedule answers `sparsity(step)` for the steps 1 … `steps`, and goes on with its end after them; step 0
is where it starts. A step is whatever one pruning is followed by: nothing in `prune_in_rounds_`, some
training elsewhere:

    cubic = Cubic(0.9, steps=100)
    if iteration % 50 == 0:
        prune_(model, cubic.sparsity(iteration // 50))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """What a schedule has to say."""

    @property
    def steps(self) -> int:
        """How many steps lead to the end."""

    def sparsity(self, step: int) -> float:
        """The share of zeros after `step` steps; ValueError for a step below 0."""


@dataclass(frozen=True)
class Constant:
    """The whole sparsity from the start; with one step, one-shot pruning."""

    final: float
    steps: int = 1

    def __post_init__(self) -> None:
        _require(self.steps, final=self.final)

    def sparsity(self, step: int) -> float:
        """`final`."""
        _reached(step, self.steps)
        return self.final


@dataclass(frozen=True)
class Geometric:
    """Each step drops the share `rate` of what is still alive.

    Frankle & Carbin 2019, arXiv 1803.03635, section 2: iterative pruning. ValueError if `rate` is outside
    [0, 1) or `steps` is not a positive int.
    """

    rate: float
    steps: int = 1

    def __post_init__(self) -> None:
        _require(self.steps, rate=self.rate)

    def sparsity(self, step: int) -> float:
        """1 - (1 - rate) ** step."""
        return 1.0 - (1.0 - self.rate) ** _reached(step, self.steps)


@dataclass(frozen=True)
class Exponential:
    """The density falls by the same factor in each step, and ends at 1 - `final`.

    The course of SynFlow, which takes 100 steps (Tanaka et al. 2020, arXiv 2006.05467, algorithm 1).
    ValueError if `final` is outside [0, 1) or `steps` is not a positive int.
    """

    final: float
    steps: int

    def __post_init__(self) -> None:
        _require(self.steps, final=self.final)

    def sparsity(self, step: int) -> float:
        """1 - (1 - final) ** (step / steps)."""
        return 1.0 - math.pow(1.0 - self.final, _reached(step, self.steps) / self.steps)


@dataclass(frozen=True)
class Cubic:
    """From `initial` to `final`, fast at first and slower and slower: most goes while much is redundant.

    Zhu & Gupta 2017, arXiv 1710.01878. ValueError if a sparsity is outside [0, 1), `initial` is above
    `final`, or `steps` is not a positive int.
    """

    final: float
    steps: int
    initial: float = 0.0

    def __post_init__(self) -> None:
        _require(self.steps, final=self.final, initial=self.initial)
        if self.initial > self.final:
            raise ValueError(f"initial must be at most final, got {self.initial!r} and {self.final!r}")

    def sparsity(self, step: int) -> float:
        """final + (initial - final) * (1 - step / steps) ** 3."""
        missing = 1.0 - _reached(step, self.steps) / self.steps
        return self.final + (self.initial - self.final) * missing**3


def _require(steps: int, **shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be in [0, 1), got {share!r}")
    if type(steps) is not int or steps < 1:
        raise ValueError(f"steps must be a positive int, got {steps!r}")


def _reached(step: int, steps: int) -> int:
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step!r}")
    return min(step, steps)
