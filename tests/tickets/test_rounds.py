"""The rounds: masks nest, survivors rewind bit for bit, the winner is chosen blind to the test part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from ticket_checks import same
from torch import Tensor

from sparsekern import zoo
from sparsekern.tickets import Search, SearchConfig, Ticket, find_ticket, lab, rehearse, search, task
from sparsekern.tickets import rounds as module
from sparsekern.tickets.stepper import Training, copy_state, steps

TINY = task(iterations=6, eval_every=3)


def under(masks: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with its dead weights at zero."""
    return {
        name: torch.where(masks[name], value, 0) if name in masks else value for name, value in state.items()
    }


class Recorder:
    """Stands in for `train` and notes what each run started from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.initial: list[dict[str, Tensor]] = []
        self.keys: list[tuple[int, ...]] = []
        self.starts: list[int] = []
        self._train = lab.train
        monkeypatch.setattr(lab, "train", self)

    def __call__(self, training: Training, *rest: Any) -> Any:
        self.initial.append(copy_state(training.model))
        self.keys.append(training.key)
        self.starts.append(training.start)
        return self._train(training, *rest)


@pytest.fixture(scope="module")
def found() -> Search:
    return search(SearchConfig(TINY, rounds=3))


def test_masks_nest_and_every_layer_follows_its_rate(found: Search) -> None:
    assert [result.round for result in found.rounds] == [0, 1, 2, 3]
    alive = {"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}
    for before, after in zip(found.rounds, found.rounds[1:], strict=False):
        for name, rate in (("fc1.weight", 0.2), ("fc2.weight", 0.2), ("fc3.weight", 0.1)):
            alive[name] -= round(alive[name] * rate)
            assert int(after.masks[name].sum()) == alive[name]
            assert not bool((after.masks[name] & ~before.masks[name]).any())
            dropped = before.final[name][before.masks[name] & ~after.masks[name]].abs().max()
            assert dropped <= before.final[name][after.masks[name]].abs().min()
    assert 100 * found.rounds[3].density == pytest.approx(51.28, abs=0.01)
    assert found.dense.sparsity == 0


def test_dead_weights_are_zero_in_every_state(found: Search) -> None:
    for result in (*found.rounds, *found.controls["reinit"]):
        for name, mask in result.masks.items():
            assert bool((result.state[name][~mask] == 0).all()) and bool(
                (result.final[name][~mask] == 0).all()
            )
            assert bool((result.state[name][mask] != 0).any())


def test_survivors_and_biases_rewind_bit_for_bit_with_a_new_order_per_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(monkeypatch)
    found = search(SearchConfig(TINY, rounds=2, seed=5))
    dense, first, control, second, other_control = recorder.initial
    assert same(dense, found.rewind)
    assert same(first, under(found.rounds[1].masks, found.rewind))
    assert same(second, under(found.rounds[2].masks, found.rewind))
    assert bool((found.rounds[0].final["fc1.bias"] != 0).any()) and bool((second["fc1.bias"] == 0).all())
    assert not same(control, found.rewind) and not same(control, other_control)
    assert len(set(recorder.keys)) == 3 and recorder.keys[1] == recorder.keys[2]
    assert recorder.starts == [0] * 5


def test_late_rewinding_returns_to_step_k_of_weights_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    found = search(SearchConfig(TINY, rounds=1, rewind_to=2))
    dense, ticket, control = recorder.initial
    model = zoo.model("lenet300")
    model.load_state_dict(dense)
    run = steps(model, {}, zoo.dataset("fashion-mnist-6k"), TINY.recipe, recorder.keys[0])
    assert [next(run), next(run)] == [1, 2]
    assert same(copy_state(model), found.rewind)
    assert same(ticket, under(found.rounds[1].masks, found.rewind))
    assert not same(dense, found.rewind) and not same(control, found.rewind)
    # Rounds go on with the remaining steps; the dense network and the control run all of them.
    assert recorder.starts == [0, 2, 0]
    assert [point.step for point in found.rounds[1].curve] == [3, 6]


def test_a_control_has_the_mask_of_its_round(found: Search) -> None:
    controls = found.controls["reinit"]
    assert [control.round for control in controls] == [1, 2, 3]
    for control in controls:
        ticket = found.rounds[control.round]
        assert same(control.masks, ticket.masks) and not same(control.state, ticket.state)


@pytest.mark.parametrize("block", [(16, 1), (4, 8)])
def test_blocks_die_whole(block: tuple[int, int]) -> None:
    result = search(SearchConfig(TINY, rounds=2, block=block, controls=())).rounds[2]
    mask = result.masks["fc2.weight"][:96, :296].reshape(96 // block[0], block[0], 296 // block[1], block[1])
    share = mask.float().mean(dim=(1, 3))
    assert bool(((share == 0) | (share == 1)).all()) and 0.3 < float(1 - share.mean()) < 0.42


def test_progress_tells_every_run_in_order() -> None:
    events: list[dict[str, Any]] = []
    search(SearchConfig(TINY, rounds=1), progress=lambda event: events.append(dict(event)))
    assert [event["event"] for event in events] == ["start", "eval", "eval", "done"] * 3
    assert [(event["kind"], event["round"]) for event in events[::4]] == [
        ("ticket", 0),
        ("ticket", 1),
        ("reinit", 1),
    ]
    assert [event["step"] for event in events if event["event"] == "eval"] == [3, 6] * 3
    assert events[0]["iterations"] == 6 and events[-1]["resumed"] is False
    assert events[-1]["sparsity"] == pytest.approx(0.2, abs=0.001)


def with_accuracies(found: Search, validation: list[float], test: list[float]) -> Search:
    rounds = tuple(
        replace(result, val_accuracy=val, test_accuracy=reached)
        for result, val, reached in zip(found.rounds, validation, test, strict=True)
    )
    return replace(found, rounds=rounds)


@pytest.mark.parametrize(
    ("validation", "winner", "matches"),
    [
        ([0.868, 0.880, 0.868, 0.866], 2, True),  # As good as dense qualifies, one image less does not.
        ([0.868, 0.900, 0.860, 0.870], 3, True),  # A worse round between does not stop the search.
        ([0.868, 0.850, 0.860, 0.840], 2, False),
        ([0.868, 0.860, 0.850, 0.860], 3, False),  # Of equals, the sparser.
    ],
)
def test_the_winner_is_the_sparsest_that_matches_on_validation(
    found: Search, validation: list[float], winner: int, matches: bool
) -> None:
    for test in ([0.9, 0.1, 0.2, 0.3], [0.1, 0.9, 0.8, 0.7]):  # The test part has no say.
        made = with_accuracies(found, validation, test)
        assert made.winner().round == winner and made.matched is matches


def test_without_a_pruned_round_there_is_no_winner() -> None:
    with pytest.raises(ValueError, match="at least one pruned round"):
        search(SearchConfig(TINY, rounds=0)).winner()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "at least one pruned round"),
        ({"rate": 0.0}, r"round 3 of 3 would drop nothing with rate 0.0 and block \(1, 1\)"),
        ({"block": (1000, 1000)}, r"round 1 of 3: layer fc1.weight: a block smaller than its shape"),
        ({"rate": 0.95, "rounds": 6}, "round 4 of 6: layer fc2.weight: dropping 0.95 .* leaves none of its"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*given: object) -> None:
        raise AssertionError("nothing may be trained")

    monkeypatch.setattr(lab, "train", unexpected)
    with pytest.raises(ValueError, match=message):
        find_ticket(TINY, **{"rounds": 3, **settings})


def test_a_rehearsal_drops_as_many_as_the_search(found: Search) -> None:
    rehearse(found.config)
    model = zoo.model("lenet300")
    masks = module.full_masks(model)
    for result in found.rounds[1:]:
        masks = module.shrink(found.config, dict(model.state_dict()), masks)
        assert module.alive_share(masks) == result.density


def test_find_ticket_is_the_ticket_of_the_winner(found: Search) -> None:
    ticket = find_ticket(TINY, rounds=3)
    expected = found.ticket(found.winner().round)
    assert isinstance(ticket, Ticket)
    assert same(ticket.masks, expected.masks) and same(ticket.trained, expected.trained)
    assert same(ticket.rewind, found.rewind) and ticket.results == expected.results
    assert ticket.results["dense"]["test_accuracy"] == found.dense.test_accuracy
    with pytest.raises(ValueError, match=r"round must be in 0 … 3, got 4"):
        found.ticket(4)


def test_a_search_prints_a_line_for_each_round(found: Search) -> None:
    lines = str(found).splitlines()
    assert len(lines) == 5 and "reinit" in lines[0]
    assert f"{found.rounds[3].test_accuracy:.2%}" in lines[4]
    assert f"{found.controls['reinit'][2].test_accuracy:.2%}" in lines[4]
