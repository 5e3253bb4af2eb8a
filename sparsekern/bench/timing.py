"""Interleaved timing: every variant is timed once per round, and rounds are pairs."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from math import ceil
from statistics import median
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

MIN_ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Times of one variant: `samples_us[i]` is its time per call (us) in round i."""

    name: str
    samples_us: tuple[float, ...]

    @property
    def median_us(self) -> float:
        """Median time per call, us."""
        return median(self.samples_us)

    @property
    def min_us(self) -> float:
        """Smallest time per call, us."""
        return min(self.samples_us)

    @property
    def interval_us(self) -> tuple[float, float]:
        """95 % bootstrap interval of the median, us."""
        return self.interval_at(0.95)

    def interval_at(self, confidence: float) -> tuple[float, float]:
        """Bootstrap interval of the median, us."""
        medians = _resampled_medians(np.sort(np.asarray(self.samples_us)), 2000, 0)
        tail = (1 - confidence) / 2
        low, high = np.quantile(medians, (tail, 1 - tail))
        return float(low), float(high)


@dataclass(frozen=True)
class Ratio:
    """A speed-up with its bootstrap interval; above 1 the other variant is faster than the base."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f})"


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    min_sample_us: float = 200.0,
    budget_s: float = 1.0,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time every call against every other in one run.

    One sample repeats a call until it lasts `min_sample_us`; each round takes one sample of every variant,
    in an order that turns round from round to round (A B C, C B A, ...) from a seeded random start, so that
    drift of the machine hits all variants alike. An untimed call before each sample warms the caches: what is
    timed does not depend on the variant before. Stops after `rounds` or once `budget_s` seconds are spent,
    calibration included, but never before 5 rounds. The garbage collector rests meanwhile.

    Returns one `Timing` per name, in the order of `calls`, all with the same number of samples.
    Raises ValueError for no calls or fewer than 5 rounds.
    """
    if not calls:
        raise ValueError("nothing to time: calls is empty, expected at least one name -> callable")
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds is {rounds}, expected at least {MIN_ROUNDS}")
    order = list(calls)
    random.Random(seed).shuffle(order)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = perf_counter_ns() + budget_s * 1e9
        inner = {name: _calibrate(call, min_sample_us) for name, call in calls.items()}
        for done in range(rounds):
            if done >= MIN_ROUNDS and perf_counter_ns() >= deadline:
                break
            for name in order:
                calls[name]()  # into the caches that the variant before has filled with its own data
                samples[name].append(_sample_us(calls[name], inner[name]))
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(name, tuple(times)) for name, times in samples.items()}


def ratio(
    base: Timing, other: Timing, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Ratio:
    """Speed-up of `other` over `base`: the median over rounds of base time / other time.

    The interval is a percentile bootstrap over rounds. Both must come from one `interleave` run: ValueError
    when the numbers of rounds differ.
    """
    if len(base.samples_us) != len(other.samples_us):
        raise ValueError(
            f"{base.name} has {len(base.samples_us)} rounds and {other.name} has {len(other.samples_us)}: "
            "expected two timings of one interleaved run"
        )
    ratios = np.sort(np.asarray(base.samples_us) / np.asarray(other.samples_us))
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_medians(ratios, resamples, seed), (tail, 1 - tail))
    return Ratio(float(np.median(ratios)), float(low), float(high))


def hardest(times: Mapping[str, Timing], rivals: Iterable[str], other: str) -> tuple[str, Ratio]:
    """The rival that `other` beats by least: its name, and the speed-up of `other` over it.

    By the median of the paired ratios, not by the rivals' own medians: on a drifting machine the two may
    disagree, and then the speed-up over "the best" would exceed that over another rival. ValueError without
    rivals.
    """
    ratios = {name: ratio(times[name], times[other]) for name in rivals}
    if not ratios:
        raise ValueError("no rival to compare with, expected at least one")
    name = min(ratios, key=lambda rival: ratios[rival].value)
    return name, ratios[name]


def _resampled_medians(ordered: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Medians of `resamples` bootstrap resamples of the sorted values, (resamples,).

    Drawing n of n values with replacement is taking `ordered[floor(n u)]` for n uniform u, and only the
    middle of the sorted u counts. Order statistics of uniforms are Beta distributed, so the middle ones are
    drawn directly: the same distribution as drawing and sorting all n, thirty times cheaper.
    """
    n = ordered.size
    middle = (n + 1) // 2
    rng = np.random.default_rng(seed)
    lower = rng.beta(middle, n - middle + 1, resamples)
    upper = lower if n % 2 else lower + (1 - lower) * rng.beta(1, n - middle, resamples)
    picked = ordered[(n * lower).astype(np.intp)] + ordered[(n * upper).astype(np.intp)]
    return np.asarray(picked / 2)


def _calibrate(call: Callable[[], object], min_sample_us: float) -> int:
    """Number of inner calls for a sample of `min_sample_us`; the search for it is the warm-up."""
    inner = 1
    _sample_us(call, inner)
    while (per_call_us := _sample_us(call, inner)) * inner < min_sample_us:
        grown = ceil(min_sample_us / max(per_call_us, 1e-3))
        # A first slow call must not fix the count: grow at least twofold, at most tenfold a step.
        inner = min(max(grown, 2 * inner), 10 * inner)
    return inner


def _sample_us(call: Callable[[], object], inner: int) -> float:
    """Mean time per call (us) over `inner` calls in a row."""
    start = perf_counter_ns()
    for _ in repeat(None, inner):
        call()
    return (perf_counter_ns() - start) / (1e3 * inner)
