"""Is head slower than base? Paired times of four processes a round, an interval, a floor, a verdict.

In every round four fresh processes run, two of base and two of head, and take turns of a few milliseconds.
Their order is base head head base or the other way round, so what drifts hits both sides alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, expm1, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["faster", "slower", "same", "undecided"]

CONFIDENCE = 0.99
FEWEST_ROUNDS = 6
_RESAMPLES = 1000
_EFFECT = np.array((-1.0, 1.0, 1.0, -1.0)) / 2
_FLOOR = np.array((1.0, 1.0, -1.0, -1.0)) / 2


@dataclass(frozen=True)
class Comparison:
    """Time of head over time of base: above 1 head is slower."""

    ratio: float
    low: float
    high: float
    floor: float
    """How far from 1 the same estimate may be between processes of the same code, as a share."""
    base_us: float
    head_us: float
    rounds: int

    def verdict(self, margin: float) -> Verdict:
        """Faster or slower: the whole interval is beyond the margin and the effect beyond the floor. Same:
        the whole interval is within. Undecided: anything else, and fewer than FEWEST_ROUNDS rounds."""
        if self.rounds < FEWEST_ROUNDS:
            return "undecided"
        if self.low > 1 + margin and self.ratio > 1 + self.floor:
            return "slower"
        if self.high < 1 / (1 + margin) and self.ratio < 1 / (1 + self.floor):
            return "faster"
        if self.low > 1 / (1 + margin) and self.high < 1 + margin:
            return "same"
        return "undecided"


def compare(rounds: Sequence[NDArray[np.float64]], confidence: float = CONFIDENCE) -> Comparison:
    """What the rounds say; each is an array (turns, 4) of times in us of the processes base 1, head 1,
    head 2, base 2, whatever order they ran in.

    Effect of a turn: half of log(head 1 head 2 / base 1 base 2). Floor of a turn: half of log(base 1 head 1 /
    base 2 head 2), which has the same noise and no effect. Both are averaged over the middle half of a
    round's turns, and then of the rounds. ValueError for fewer than two rounds.
    """
    if len(rounds) < 2:
        raise ValueError(f"{len(rounds)} rounds, expected at least 2")
    logs = [np.log(times) for times in rounds]
    effects = np.array([_middle(turns @ _EFFECT) for turns in logs])
    floors = np.array([_middle(turns @ _FLOOR) for turns in logs])
    low, high = interval(effects, confidence)
    medians = np.median(np.concatenate(rounds), axis=0)
    return Comparison(
        exp(_middle(effects)),
        exp(low),
        exp(high),
        expm1(max(map(abs, interval(floors, confidence)))),
        float(medians[[0, 3]].mean()),
        float(medians[[1, 2]].mean()),
        len(rounds),
    )


def interval(values: NDArray[np.float64], confidence: float, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean of the middle half of `values`.

    Percentiles of few values are too narrow; they are stretched as Student's t stretches the normal
    distribution's (Hesterberg 2015, section 4.4.1, gives the reasons).
    """
    n, tail = values.size, (1 - confidence) / 2
    picked = np.random.default_rng(seed).integers(n, size=(_RESAMPLES, n))
    found = np.quantile(_middle(values[picked]), (tail, 1 - tail))
    center, stretch = float(_middle(values)), _stretch(n, 1 - tail)
    low, high = center + (found - center) * stretch
    return float(low), float(high)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict of many: the first of slower, undecided, faster that occurs, else same."""
    found = set(verdicts)
    order: tuple[Verdict, ...] = ("slower", "undecided", "faster")
    return next((verdict for verdict in order if verdict in found), "same")


def _stretch(n: int, quantile: float) -> float:
    """Student's t of n - 1 degrees over the normal quantile, times sqrt(n / (n - 1))."""
    z, degrees = NormalDist().inv_cdf(quantile), n - 1
    # Abramowitz and Stegun 26.7.5
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    t = z + sum(term / degrees**power for power, term in enumerate(terms, 1))
    return float(t / z * sqrt(n / degrees))


def _middle(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the middle half along the last axis."""
    n = values.shape[-1]
    cut = n // 4
    middle: NDArray[np.float64] = np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return middle
