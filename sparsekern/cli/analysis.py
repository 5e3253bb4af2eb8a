"""What the runs of a search say together: stability, the range a ticket is in, all measures, the cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.tickets import RoundResult, Search
from sparsekern.tickets.connectivity import Level, error_of, line, ranges
from sparsekern.tickets.evaluation import evaluate, over_seeds
from sparsekern.tickets.lab import draw

BATCH = 1_000


def analysis(searches: Sequence[Search], data: zoo.Data, winner: int) -> dict[str, Any]:
    """For report.json: `evaluation` of the dense network and the winner over all seeds, `seconds` of search,
    and what the controls allow: `instability_points` of every round ("order"), `ranges` in words ("random").
    """
    found: dict[str, Any] = {
        "evaluation": {
            who: _measures(searches, data, index) for who, index in (("dense", 0), ("ticket", winner))
        },
        "seconds": _seconds(searches),
    }
    names = searches[0].controls
    unstable = _instabilities(searches, data) if "order" in names else None
    if unstable is not None:
        found["instability_points"] = unstable
    if "random" in names:
        found["ranges"] = ranges(_levels(searches, unstable)).splitlines()
    return found


def _measures(searches: Sequence[Search], data: zoo.Data, index: int) -> dict[str, Any]:
    """Every measure as value, low, high over the seeds."""
    evaluations = []
    for found in searches:
        model = _network(found, data)
        model.load_state_dict(found.rounds[index].state)
        evaluations.append(evaluate(_logits(model, data.test_x), data.test_y))
    return {
        name: {"value": one.mean, "low": one.low, "high": one.high}
        if len(searches) > 1
        else {"value": one.mean}
        for name, one in over_seeds(evaluations).items()
    }


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(x[at : at + BATCH]) for at in range(0, len(x), BATCH)])


def _network(found: Search, data: zoo.Data) -> nn.Module:
    return draw(found.config, 1.0, data=data).eval()


def _seconds(searches: Sequence[Search]) -> dict[str, Any]:
    """Wall-clock of training: each round's ticket over the seeds, and a whole search without controls."""
    rounds = [
        mean(one.seconds for one in results) for results in zip(*(s.rounds for s in searches), strict=True)
    ]
    return {"rounds": rounds, "search": sum(rounds)}


def _instabilities(searches: Sequence[Search], data: zoo.Data) -> list[float]:
    """Of every round, the mean over seeds: the error along the line from a ticket to itself with another
    order of data, above that of the ends, in points."""

    def of(found: Search, result: RoundResult) -> float:
        model = _network(found, data)
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        seen = [data.train_x[at : at + 100] for at in range(0, BATCH, 100)] if norms else None
        twin = found.control("order", result.round)
        assert twin is not None
        error = error_of(model, data.test_x, data.test_y, seen)
        return line(result.final, twin.final, error).instability_points

    rounds = range(len(searches[0].rounds))
    return [mean(of(found, found.rounds[index]) for found in searches) for index in rounds]


def _levels(searches: Sequence[Search], unstable: Sequence[float] | None) -> list[Level]:
    levels = []
    for index in range(1, len(searches[0].rounds)):
        gaps = [
            (
                found.rounds[index].test_accuracy - found.dense.test_accuracy,
                random.test_accuracy - found.dense.test_accuracy,
            )
            for found in searches
            if (random := found.control("random", index)) is not None
        ]
        ticket, random_points = (100 * mean(values) for values in zip(*gaps, strict=True))
        stability = None if unstable is None else unstable[index]
        levels.append(Level(searches[0].rounds[index].sparsity, ticket, random_points, stability))
    return levels
