"""Schedules: how much is left after each round."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Geometric:
    """Each round drops the share `rate` of what is still alive.

    Frankle & Carbin 2019, arXiv 1803.03635, section 2: iterative pruning. ValueError if `rate` is outside [0,
    1).
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {self.rate!r}")

    def left(self, round_index: int) -> float:
        """The share of the weights left after `round_index` rounds, before rounding to whole weights."""
        return (1 - self.rate) ** round_index

    def keep(self, alive: int) -> int:
        """How many of `alive` elements one round keeps: the nearest whole number; a tie keeps one more.

        So a rate of at most one half never takes the last element.
        """
        # 25 * 0.14 is a little more than 3.5 in binary; a millionth of an element is more than such errors.
        return alive - math.ceil(round(alive * self.rate, 6) - 0.5)
