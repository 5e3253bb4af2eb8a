"""The statistics of a comparison on simulated processes: drift, bursts, heavy tails, places in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsekern.bench.compare import FEWEST_ROUNDS, Comparison, compare, interval, overall
from sparsekern.cli.compare import timed
from sparsekern.cli.compare.timed import Rules, decide

TURNS = 8


class Simulated:
    """What a Sitting does: `slower` is head's share, `layout` the spread between processes, `server` that
    between servers, of one side and sitting; `busy` is how much a neighbour slows all down in bursts."""

    refusals: Sequence[Mapping[str, str]] = ({}, {})

    def __init__(self, names: Sequence[str], seed: int, slower: float, **noise: float) -> None:
        self.names, self.slower, self.noise = names, slower, noise
        self.draw = np.random.default_rng(seed)
        spread = noise.get("server", 0.0)
        self.sides = {name: self.draw.normal(0, spread, 2) for name in names}

    def __enter__(self) -> Simulated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def round(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        return {name: self.times(name) for name in names}

    def times(self, name: str) -> NDArray[np.float64]:
        draw = self.draw
        processes = draw.normal(0, self.noise.get("layout", 0.005), 4) + np.log1p(self.slower) * np.array(
            (0, 1, 1, 0)
        )
        processes += self.sides[name][[0, 1, 1, 0]]
        drift = np.linspace(0, self.noise.get("drift", 0.1), TURNS)[:, None]
        each = 0.01 * draw.standard_t(2, (TURNS, 4))
        busy = self.noise.get("busy", 0.0)
        bursts = busy * (draw.random((TURNS, 1)) < 0.5) + busy * (draw.random((TURNS, 4)) < 0.1)
        times: NDArray[np.float64] = 100 * np.exp(processes + drift + np.abs(each) + bursts)
        return times


def verdicts(slower: float, trials: int, cases: int = 1, **noise: float) -> Counter[str]:
    rules = Rules(margin=0.015, budget_s=60.0, most_rounds=60, seed=0)
    names = [f"case {index}" for index in range(cases)]
    found: Counter[str] = Counter()
    for trial in range(trials):

        def sitting(names: Sequence[str], seed: int, trial: int = trial) -> Simulated:
            return Simulated(names, 1000 * trial + seed, slower, **noise)

        outcome = decide(names, sitting, rules)  # type: ignore[arg-type]
        found[overall(outcome.verdicts.values())] += 1
    return found


def test_equal_sides_raise_no_alarm() -> None:
    assert verdicts(0.0, 20, cases=3)["same"] >= 19
    found = verdicts(0.0, 10, cases=3, busy=0.5, layout=0.01)
    assert found["slower"] + found["faster"] == 0


def test_a_change_is_found() -> None:
    assert verdicts(0.05, 20, busy=0.3)["slower"] >= 19
    assert verdicts(0.03, 20)["slower"] >= 16
    assert verdicts(-0.05, 10)["faster"] >= 9


def test_the_second_run_waits_for_the_case_that_the_first_found() -> None:
    """Of several slower cases, another may look so first."""
    assert verdicts(0.03, 20, cases=3)["slower"] >= 19


def test_what_only_one_pair_of_servers_has_is_no_change() -> None:
    found = verdicts(0.0, 60, server=0.01)
    alone = sum(
        compare([one.times("a") for _ in range(20)]).verdict(0.015) in ("faster", "slower")
        for one in (Simulated(["a"], seed, 0.0, server=0.01) for seed in range(0, 60000, 1000))
    )
    assert alone >= 8  # one run alone would cry wolf
    assert found["slower"] + found["faster"] <= alone // 3


def test_the_interval_covers_what_it_should() -> None:
    draw = np.random.default_rng(1)
    for n in (6, 20):
        missed = 0
        for _ in range(400):
            low, high = interval(draw.normal(0, 1, n), 0.99)
            missed += not low <= 0 <= high
        assert missed <= 12  # 4 expected of 400


@pytest.mark.parametrize(
    ("ratio", "low", "high", "floor", "verdict"),
    [
        (1.05, 1.03, 1.07, 0.01, "slower"),
        (1.05, 1.03, 1.07, 0.06, "undecided"),  # no further than the same code from itself
        (1.05, 1.01, 1.09, 0.01, "undecided"),
        (0.95, 0.93, 0.97, 0.01, "faster"),
        (0.95, 0.93, 0.97, 0.06, "undecided"),
        (1.01, 1.005, 1.015, 0.01, "same"),  # a change, but within the margin
        (1.0, 0.97, 1.03, 0.01, "undecided"),
    ],
)
def test_the_four_verdicts(ratio: float, low: float, high: float, floor: float, verdict: str) -> None:
    found = Comparison(ratio, low, high, floor, 100.0, 100.0, FEWEST_ROUNDS)
    assert found.verdict(0.02) == verdict
    few = Comparison(ratio, low, high, floor, 100.0, 100.0, FEWEST_ROUNDS - 1)
    assert few.verdict(0.02) == "undecided"


def test_effect_and_floor_are_those_of_the_processes() -> None:
    # base 1, head 1, head 2, base 2: head is 10 % slower, the second processes 4 % slower than the first
    turn = 100 * np.array((1.0, 1.1, 1.1 * 1.04, 1.04))
    rounds = [turn * (1 + 0.2 * np.arange(TURNS)[:, None])] * FEWEST_ROUNDS
    found = compare(rounds)
    assert found.ratio == pytest.approx(1.1)
    assert (found.low, found.high) == pytest.approx((1.1, 1.1))
    assert found.floor == pytest.approx(0.04)
    assert found.head_us / found.base_us == pytest.approx(1.1)
    with pytest.raises(ValueError, match="1 rounds, expected at least 2"):
        compare(rounds[:1])


def test_the_worst_verdict_is_the_verdict() -> None:
    assert overall(["same", "faster", "undecided", "slower"]) == "slower"
    assert overall(["same", "faster", "undecided"]) == "undecided"
    assert overall(["same", "faster"]) == "faster"
    assert overall(["same", "same"]) == "same"


def test_time_ends_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(timed, "monotonic", lambda: float(next(clock)))
    rules = Rules(margin=0.02, budget_s=8.0, most_rounds=100, seed=0)
    outcome = decide(["a"], lambda names, seed: Simulated(names, seed, 0.02), rules)  # type: ignore[arg-type, return-value]
    assert outcome.verdicts == {"a": "undecided"}
    assert FEWEST_ROUNDS <= outcome.rounds[0] <= FEWEST_ROUNDS + 8
