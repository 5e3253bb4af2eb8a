"""Timing on a fake clock: counts, orders, budgets; ratios on samples whose answer is known."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from sparsekern.bench import Ratio, Timing, hardest, interleave, keep_sparse, ratio, timing


class Clock:
    """A clock that only moves when a call says so; it keeps the order of the calls."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.order: list[str] = []

    def __call__(self) -> int:
        return self.now_ns

    def call(self, name: str, cost_us: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now_ns += round(1e3 * cost_us)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(timing, "perf_counter_ns", fake)
    return fake


def test_samples_are_per_call(clock: Clock) -> None:
    times = interleave({"a": clock.call("a", 30), "b": clock.call("b", 7)}, rounds=6)
    assert times["a"] == Timing("a", (30.0,) * 6)
    assert times["b"].median_us == times["b"].min_us == 7.0


def test_a_sample_lasts_long_enough_and_no_longer_than_needed(clock: Clock) -> None:
    interleave({"a": clock.call("a", 30)}, rounds=5, min_sample_us=200)
    # The warm-up call, the calibration at 1 and then at ceil(200 / 30) = 7 calls, and five samples of 7,
    # each after an untimed call.
    assert len(clock.order) == 2 + 7 + 5 * (1 + 7)


def test_rounds_are_palindromes_of_each_other(clock: Clock) -> None:
    calls = {name: clock.call(name, 500) for name in "abc"}
    interleave(calls, rounds=6, budget_s=100)
    untimed, timed = (clock.order[start::2] for start in (6, 7))  # two warm-up calls each before
    rounds = ["".join(timed[start : start + 3]) for start in range(0, 18, 3)]
    assert untimed == timed and len(timed) == 18 and set(rounds[0]) == set("abc")
    assert rounds == [rounds[0], rounds[0][::-1]] * 3


def test_the_start_is_seeded(clock: Clock) -> None:
    def first_round(seed: int) -> str:
        clock.order.clear()
        interleave({name: clock.call(name, 500) for name in "abc"}, rounds=5, seed=seed)
        return "".join(clock.order[6:12:2])

    assert [first_round(3) for _ in range(3)] == [first_round(3)] * 3
    assert len({first_round(seed) for seed in range(20)}) > 3


def test_the_budget_ends_it_but_not_before_five_rounds(clock: Clock) -> None:
    slow = interleave({"a": clock.call("a", 1e6)}, rounds=30, budget_s=0.001)
    assert len(slow["a"].samples_us) == 5
    # 20 ms a sample with its untimed call, 20 ms of warm-up: the budget of 220 ms is spent after ten rounds.
    some = interleave({"a": clock.call("a", 1e4)}, rounds=30, budget_s=0.220)
    assert len(some["a"].samples_us) == 10


def test_the_collector_rests_and_comes_back() -> None:
    seen = []
    interleave({"a": lambda: seen.append(gc.isenabled())}, rounds=5, min_sample_us=1)
    assert not any(seen) and gc.isenabled()

    def fails() -> None:
        raise RuntimeError("kernel broke")

    with pytest.raises(RuntimeError, match="kernel broke"):
        interleave({"a": fails})
    assert gc.isenabled()


def test_nothing_to_time_and_too_few_rounds() -> None:
    with pytest.raises(ValueError, match="nothing to time"):
        interleave({})
    with pytest.raises(ValueError, match="rounds is 4, expected at least 5"):
        interleave({"a": lambda: None}, rounds=4)


def noisy(name: str, centre: float, drift: np.ndarray, seed: int) -> Timing:
    noise = np.random.default_rng(seed).lognormal(0, 0.05, drift.size)
    return Timing(name, tuple((centre * drift * noise).tolist()))


def test_the_interval_covers_a_known_ratio_as_often_as_it_says() -> None:
    drift = np.linspace(1, 3, 30)  # the machine slows down threefold: pairs do not care
    covered = 0
    for seed in range(200):
        got = ratio(
            noisy("dense", 300, drift, 2 * seed), noisy("sparse", 100, drift, 2 * seed + 1), seed=seed
        )
        assert got.low <= got.value <= got.high
        covered += got.low <= 3.0 <= got.high
    assert 0.90 <= covered / 200 <= 1.0


@pytest.mark.parametrize("rounds", [5, 6, 29, 30])
def test_the_interval_is_that_of_plain_resampling(rounds: int) -> None:
    values = np.random.default_rng(7).lognormal(0, 0.3, rounds)
    got = ratio(Timing("a", tuple(values.tolist())), Timing("b", (1.0,) * rounds), resamples=100_000)
    drawn = np.random.default_rng(8).integers(0, rounds, (100_000, rounds))
    low, high = np.quantile(np.median(values[drawn], axis=1), (0.025, 0.975))
    ordered = np.sort(values)
    # Both intervals end on (midpoints of) the same order statistics, up to one step of sampling noise.
    step = np.diff(ordered).max()
    assert abs(got.low - low) <= step / 2 and abs(got.high - high) <= step / 2
    assert got.value == np.median(values)


def test_one_outlier_does_not_move_the_ratio() -> None:
    base, other = Timing("a", (200.0,) * 29 + (9000.0,)), Timing("b", (100.0,) * 30)
    assert ratio(base, other) == Ratio(2.0, 2.0, 2.0)


def test_ratio_is_quick_enough_for_every_layer() -> None:
    base, other = noisy("a", 2, np.ones(30), 1), noisy("b", 1, np.ones(30), 2)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        ratio(base, other)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3e-3


def test_timings_of_different_runs_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="dense has 5 rounds and sparse has 6"):
        ratio(Timing("dense", (1.0,) * 5), Timing("sparse", (1.0,) * 6))


def test_the_interval_of_a_median_encloses_it() -> None:
    low, high = noisy("a", 50, np.ones(30), 3).interval_us
    assert low < noisy("a", 50, np.ones(30), 3).median_us < high and high - low < 5


@pytest.mark.parametrize(
    ("given", "keeps", "reason"),
    [
        (Ratio(4.1, 4.02, 4.17), True, "4.10x (4.02 to 4.17): faster"),
        (Ratio(1.05, 1.01, 1.09), True, "1.05x (1.01 to 1.09): faster"),
        (Ratio(1.02, 0.98, 1.06), False, "1.02x (0.98 to 1.06): not 5 % faster"),
        (Ratio(1.049, 1.04, 1.06), False, "1.05x (1.04 to 1.06): not 5 % faster"),
        (Ratio(1.3, 1.0, 1.5), False, "1.30x (1.00 to 1.50): faster, but the interval reaches 1"),
        (Ratio(0.6, 0.58, 0.62), False, "0.60x (0.58 to 0.62): slower"),
    ],
)
def test_verdicts(given: Ratio, keeps: bool, reason: str) -> None:
    assert keep_sparse(given) == (keeps, reason)


def test_the_margin_is_the_callers() -> None:
    assert keep_sparse(Ratio(1.2, 1.1, 1.3), margin=0.25) == (False, "1.20x (1.10 to 1.30): not 25 % faster")
    assert keep_sparse(Ratio(1.02, 1.01, 1.03), margin=0.0)[0]


def test_the_hardest_rival_has_the_smallest_speedup_not_the_smallest_median() -> None:
    times = {
        "a": Timing("a", (10.0, 20.0, 30.0, 40.0, 50.0)),
        "b": Timing("b", (12.0, 19.0, 31.0, 38.0, 48.0)),
        "other": Timing("other", (5.0, 10.0, 16.0, 20.0, 25.0)),
    }
    assert times["a"].median_us < times["b"].median_us
    name, speedup = hardest(times, ["a", "b"], "other")
    assert name == "b" and speedup == ratio(times["b"], times["other"])
    assert speedup.value == 1.92 < ratio(times["a"], times["other"]).value == 2.0
    with pytest.raises(ValueError, match="no rival"):
        hardest(times, [], "other")
