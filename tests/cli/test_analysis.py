"""What the runs of a search say together: the error between two runs, the ranges, the seeds, the seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from ticket_checks import lenet
from torch import nn

from sparsekern import zoo
from sparsekern.cli.analysis import analysis
from sparsekern.tickets import RoundResult, Search, SearchConfig
from sparsekern.tickets.stepper import copy_state
from sparsekern.tickets.training import accuracy, evaluate

PLACES = 30
KINDS = ("ticket", "order", "random")


@pytest.fixture(scope="module")
def data() -> zoo.Data:
    """The small set with 100 images to test on."""
    small = zoo.dataset("fashion-mnist-6k")
    return replace(small, test_x=small.test_x[:100], test_y=small.test_y[:100])


def result(kind: str, index: int, points: float, seed: int) -> RoundResult:
    """A run that reached `points` above 80 %, each round with 10 % more zeros than the last one. Its weights
    are drawn, those at early stop apart from the last ones."""
    return RoundResult(
        curve=(),
        early_stop_step=0,
        val_accuracy=0.0,
        test_loss=0.0,
        test_accuracy=0.8 + points / 100,
        test_predictions=torch.zeros(0),
        state=copy_state(lenet(1000 + 10 * seed + index)),
        final=copy_state(lenet(100 * KINDS.index(kind) + 10 * seed + index)),
        seconds=(1.0 + index) * (1 + 2 * seed),
        kind=kind,
        round=index,
        masks={"fc1.weight": torch.arange(10) >= index},
    )


def search(seed: int, tickets: Sequence[float], randoms: Sequence[float], order: bool = False) -> Search:
    """Points above 80 % of the dense network and each round's ticket, and of random pruning."""
    controls = {
        "random": tuple(result("random", index, points, seed) for index, points in enumerate(randoms, 1))
    }
    if order:
        controls["order"] = tuple(result("order", index, 0.0, seed) for index in range(len(tickets)))
    config = SearchConfig(rounds=len(randoms), seed=seed, controls=tuple(controls))
    rounds = tuple(result("ticket", index, points, seed) for index, points in enumerate(tickets))
    return Search(config, {}, rounds, controls)


def searches() -> list[Search]:
    """In the mean over seeds, random pruning is 0.1 points below the dense network in the first round, and
    the ticket 0.1 and 1.9 points below it in the second and the third."""
    return [
        search(0, (0.0, 1.0, -1.0, -0.9), (0.8, -3.0, -3.0)),
        search(1, (1.0, 1.0, 1.8, -1.9), (0.0, -3.0, -3.0)),
    ]


def wrong_points(state: dict[str, torch.Tensor], data: zoo.Data, network: nn.Module) -> float:
    network.load_state_dict(state)
    return 100 * (1 - accuracy(evaluate(network, data.test_x, data.test_y)[1], data.test_y))


def test_instability_is_that_of_the_line_between_a_run_and_its_twin_in_another_order(data: zoo.Data) -> None:
    made = [search(seed, (0.0, -1.0), (-3.0,), order=True) for seed in (0, 1)]
    found, network = analysis(made, data, winner=1), lenet()
    assert len(found["instability_points"]) == 2 and min(found["instability_points"]) > 0
    for index, points in enumerate(found["instability_points"]):
        rises = []
        for one in made:
            start, end = one.rounds[index].final, one.controls["order"][index].final
            shares = [at / (PLACES - 1) for at in range(PLACES)]
            line = [{name: value.lerp(end[name], share) for name, value in start.items()} for share in shares]
            errors = [wrong_points(state, data, network) for state in line]
            rises.append(max(errors) - (errors[0] + errors[-1]) / 2)
        assert points == pytest.approx(sum(rises) / 2)
    stable = [points < 2 for points in found["instability_points"][1:]]
    assert [line.split("; ")[1] for line in found["ranges"]] == [f"{one:d} of 1 stable" for one in stable]


def test_ranges_are_of_the_mean_over_seeds_against_the_dense_network(data: zoo.Data) -> None:
    found = analysis(searches(), data, winner=1)
    assert "instability_points" not in found and found["ranges"] == [
        "10.0 % zeros: trivial, even random pruning matches the dense network",
        "20.0 % zeros: matching, the ticket matches, random pruning does not",
        "30.0 % zeros: too sparse, the ticket does not match",
    ]


def test_figures_are_those_of_the_winner_over_the_seeds(data: zoo.Data) -> None:
    made = searches()
    for seeds in (made, made[:1]):
        found = analysis(seeds, data, winner=2)["evaluation"]
        for who, index in (("dense", 0), ("ticket", 2)):
            reached = [1 - wrong_points(one.rounds[index].state, data, lenet()) / 100 for one in seeds]
            told = found[who]["accuracy"]
            assert told["value"] == pytest.approx(sum(reached) / len(reached))
            assert ("low" in told) == (len(seeds) > 1)


def test_seconds_are_of_the_search_without_its_controls(data: zoo.Data) -> None:
    assert analysis(searches(), data, winner=1)["seconds"] == {"rounds": [2.0, 4.0, 6.0, 8.0], "search": 20.0}
