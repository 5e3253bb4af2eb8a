"""The loop of a comparison: rounds until every case is decided, then once more for what looks changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from sparsekern.bench.compare import CONFIDENCE, FEWEST_ROUNDS, Comparison, Verdict, compare
from sparsekern.cli.compare.sides import Sitting

Round = NDArray[np.float64]
OpenSitting = Callable[[Sequence[str], int], Sitting]

LATER = 1.2
"""From one look at the rounds to the next: who looks often is wrong often."""


@dataclass
class Run:
    """The rounds of one sitting and what they say so far."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    found: dict[str, Comparison] = field(default_factory=dict)

    def add(self, times: Mapping[str, Round]) -> None:
        """One more round."""
        for name, turns in times.items():
            self.rounds.setdefault(name, []).append(turns)

    def look(self, confidence: float) -> None:
        """At all rounds so far."""
        if self.length > 1:
            self.found = {name: compare(rounds, confidence) for name, rounds in self.rounds.items()}

    def verdict(self, name: str, margin: float) -> Verdict:
        """So far."""
        return self.found[name].verdict(margin) if name in self.found else "undecided"

    def verdicts(self, margin: float) -> set[Verdict]:
        """Those of all cases so far."""
        return {self.verdict(name, margin) for name in self.rounds}

    def changed(self, margin: float) -> list[str]:
        """The cases that look faster or slower."""
        return [name for name in self.found if self.verdict(name, margin) in ("faster", "slower")]

    @property
    def length(self) -> int:
        """Rounds."""
        return max(map(len, self.rounds.values()), default=0)


@dataclass(frozen=True)
class Outcome:
    """The end of a comparison, by case."""

    found: Mapping[str, Comparison]
    verdicts: Mapping[str, Verdict]
    refusals: Sequence[Mapping[str, str]]
    """Of base and of head: case -> why it was not timed."""
    rounds: tuple[int, int]
    """Of the first and of the confirming run."""


@dataclass(frozen=True)
class Rules:
    """When to stop: beyond `margin` is a change; about `budget_s` seconds in all, `most_rounds` in a run."""

    margin: float
    budget_s: float
    most_rounds: int
    seed: int


def decide(names: Sequence[str], open_sitting: OpenSitting, rules: Rules) -> Outcome:
    """Compare until decided. When a case looks faster or slower, all that is open is timed again by new
    processes; the interval of the second run is as much wider as there are such cases (Bonferroni), so that
    many cases make no more false alarms than one."""
    deadline = monotonic() + rules.budget_s
    first, second = Run(), Run()
    with open_sitting(names, rules.seed) as sitting:
        timed, refusals = sitting.names, sitting.refusals
        _go_on(sitting, first, rules, deadline, CONFIDENCE, lambda: "slower" in first.verdicts(rules.margin))
    found = dict(first.found)
    verdicts = {name: first.verdict(name, rules.margin) for name in timed}
    if suspects := first.changed(rules.margin):
        again = [name for name in timed if verdicts[name] != "same"]
        with open_sitting(again, rules.seed + 1) as sitting:

            def confirmed() -> bool:
                return any(_joined(name, first, second, rules.margin)[1] == "slower" for name in again)

            _go_on(sitting, second, rules, deadline, 1 - (1 - CONFIDENCE) / len(suspects), confirmed)
        for name in again:
            found[name], verdicts[name] = _joined(name, first, second, rules.margin)
    return Outcome(found, verdicts, refusals, (first.length, second.length))


def _go_on(
    sitting: Sitting,
    run: Run,
    rules: Rules,
    deadline: float,
    confidence: float,
    enough: Callable[[], bool],
) -> None:
    """Rounds until every case is decided, a look at them is ``enough``, or time or rounds are used up; never
    fewer than a verdict takes."""
    names, next_look = sitting.names, FEWEST_ROUNDS
    while names:
        run.add(sitting.round(names))
        late = run.length >= FEWEST_ROUNDS and monotonic() >= deadline
        last = late or run.length >= rules.most_rounds
        if last or run.length >= next_look:
            run.look(confidence)
            if last or enough() or "undecided" not in run.verdicts(rules.margin):
                return
            next_look = ceil(LATER * run.length)


def _joined(name: str, first: Run, second: Run, margin: float) -> tuple[Comparison, Verdict]:
    """What both runs say together. A change only if each alone, too, estimates it beyond the margin, and one
    of them says so: what one pair of servers has, the other does not."""
    both = compare(first.rounds[name] + second.rounds.get(name, []))
    verdict = both.verdict(margin)
    if verdict in ("faster", "slower"):
        alone = [run.found.get(name) for run in (first, second)]
        sides = {None if one is None else _side(one, margin) for one in alone}
        said = {run.verdict(name, margin) for run in (first, second)}
        if sides != {verdict} or verdict not in said:
            verdict = "undecided"
    return both, verdict


def _side(found: Comparison, margin: float) -> Verdict:
    """Where the estimate lies, whatever its interval."""
    if found.ratio > 1 + margin:
        return "slower"
    return "faster" if found.ratio < 1 / (1 + margin) else "same"
