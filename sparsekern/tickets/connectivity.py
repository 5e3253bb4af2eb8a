"""Linear mode connectivity: does the noise of training decide where a network ends?

Frankle et al. 2020, arXiv 1912.05671: two copies of a network are trained from the same step k with other
data orders, and the error is taken along the straight line between what they become. Where it nowhere rises
by 2 points, the network is stable to that noise; tickets match their dense network where they are stable.

All numbers of a state are interpolated, the running statistics of batch normalisation with them. That is
not what a network at that place of the line would measure: `error_of` can take them anew from training
images instead. Masks that both ends share hold all along the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsekern.tickets.matching import matched

State = Mapping[str, Tensor]
PLACES = 30
STABLE_POINTS = 2.0
"""From this many points on, the paper calls a network unstable."""


@dataclass(frozen=True)
class Line:
    """The errors (shares, 0 … 1) at evenly spaced places of a line, its two ends the first and the last."""

    errors: tuple[float, ...]

    @property
    def instability_points(self) -> float:
        """The highest error less the mean of the two ends, in points."""
        return 100 * (max(self.errors) - (self.errors[0] + self.errors[-1]) / 2)

    @property
    def stable(self) -> bool:
        """Whether the instability is below STABLE_POINTS."""
        return self.instability_points < STABLE_POINTS


@dataclass(frozen=True)
class Instability:
    """The lines between all pairs of copies of one network, trained with different data orders."""

    lines: tuple[Line, ...]

    @property
    def points(self) -> float:
        """The mean instability over the pairs, in points."""
        return sum(line.instability_points for line in self.lines) / len(self.lines)

    @property
    def stable(self) -> bool:
        """Whether the mean is below STABLE_POINTS."""
        return self.points < STABLE_POINTS


def between(first: State, second: State, share: float) -> dict[str, Tensor]:
    """The state at `share` of the way from `first` (0) to `second` (1), exact at both ends.

    What is not a floating-point number, such as the count of batches, is that of `first`.
    """
    return {
        name: torch.lerp(value, second[name], share) if value.is_floating_point() else value.clone()
        for name, value in first.items()
    }


def line(first: State, second: State, error: Callable[[State], float], places: int = PLACES) -> Line:
    """The error along the line between two states; `error` takes a state dict and gives a share (0 … 1).

    ValueError for states that differ in names or shapes, and for fewer than two places.
    """
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (first, second)]
    if shapes[0] != shapes[1]:
        odd = sorted(
            name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name)
        )
        raise ValueError(f"two states of one network are expected, these differ in {odd}")
    if places < 2:
        raise ValueError(f"at least 2 places, the ends, are expected, got {places}")
    return Line(tuple(error(between(first, second, at / (places - 1))) for at in range(places)))


def instability(
    start: State,
    train: Callable[[dict[str, Tensor], int], State],
    error: Callable[[State], float],
    copies: int = 2,
    places: int = PLACES,
) -> Instability:
    """Train copies from one state under other data orders, and look at the lines between all pairs of them.

    start: the state at step k. train: takes a copy of it and the number of the data order, 0, 1, …, and gives
    the state at the end of training. error: see `line`. ValueError for fewer than two copies.
    """
    if copies < 2:
        raise ValueError(f"at least 2 copies are expected, got {copies}")
    ends = []
    for order in range(copies):
        end = train({name: value.clone() for name, value in start.items()}, order)
        ends.append({name: value.clone() for name, value in end.items()})
    return Instability(tuple(line(first, second, error, places) for first, second in combinations(ends, 2)))


def error_of(
    model: nn.Module, x: Tensor, y: Tensor, statistics: Iterable[Tensor] | None = None, batch: int = 1_000
) -> Callable[[State], float]:
    """An `error` for `line`: the share of wrong predictions on inputs x (m, …) with labels y (m, …).

    statistics: batches of training inputs, from which the statistics of batch normalisation are taken anew at
    each place, the ends included; None keeps those of the state. The model is used to compute, and is left
    with the last state that came, in eval mode.
    """
    batches = None if statistics is None else list(statistics)

    def error(state: State) -> float:
        model.load_state_dict(state)
        if batches is not None:
            torch.optim.swa_utils.update_bn(batches, model)
        model.eval()
        with torch.inference_mode():
            wrong = sum(
                int((model(x[at : at + batch]).argmax(-1) != y[at : at + batch]).sum())
                for at in range(0, len(x), batch)
            )
        return wrong / y.numel()

    return error


RANGES = {
    "trivial": "even random pruning matches the dense network",
    "matching": "the ticket matches, random pruning does not",
    "too sparse": "the ticket does not match",
}
"""The paper's ranges of sparsity, I, II and III."""


class Level(NamedTuple):
    """How a sparsity (0 … 1) fares: mean accuracy of the ticket, and of random pruning, less the dense one's,
    in points; and the ticket's instability in points if it was taken."""

    sparsity: float
    ticket_points: float
    random_points: float
    instability_points: float | None = None

    @property
    def range(self) -> str:
        """The name in RANGES."""
        if matched(self.random_points):
            return "trivial"
        return "matching" if matched(self.ticket_points) else "too sparse"


def ranges(levels: Sequence[Level]) -> str:
    """What was found in each range, a line each, from dense to sparse; a range may come more than once.

    Where instability was taken, it says how many of the levels are stable. ValueError for no levels.
    """
    if not levels:
        raise ValueError("at least one level of sparsity is expected, got none")
    lines = []
    for name, group in groupby(sorted(levels), key=lambda level: level.range):
        members = list(group)
        low, high = (100 * members[at].sparsity for at in (0, -1))
        span = f"{low:.1f} %" if len(members) == 1 else f"{low:.1f} to {high:.1f} %"
        taken = [one.instability_points for one in members if one.instability_points is not None]
        stable = sum(points < STABLE_POINTS for points in taken)
        said = f"; {stable} of {len(taken)} stable" if taken else ""
        lines.append(f"{span} zeros: {name}, {RANGES[name]}{said}")
    return "\n".join(lines)
