"""What is trained beside a ticket has what its name says of the ticket, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ticket_checks import same

from sparsekern import zoo
from sparsekern.tickets import CONTROLS, Search, SearchConfig, search, task
from sparsekern.tickets import lab as module
from sparsekern.tickets.controls import Round, Setup, operations, require_control
from sparsekern.tickets.lab import draw
from sparsekern.tickets.stepper import copy_state

CONFIG = SearchConfig(task(iterations=4, eval_every=2), rounds=3, seed=2, controls=())
WEIGHTS = ("fc1.weight", "fc2.weight", "fc3.weight")


@pytest.fixture(scope="module")
def found() -> Search:
    return search(CONFIG)


@pytest.fixture(scope="module")
def this(found: Search) -> Round:
    data = zoo.dataset(CONFIG.task.data)
    laboratory = module.Lab(CONFIG, data, None, None, None)
    ticket = Setup(found.rounds[3].masks, found.rewind, CONFIG.task.recipe)
    return laboratory.round(3, ticket, found.rewind, found.rounds[2].final)


def setup(name: str, this: Round) -> Setup:
    return require_control(name).setup(this, name.partition(":")[2])


def test_reinit_has_the_mask_and_new_weights(this: Round) -> None:
    control = setup("reinit", this)
    assert same(control.masks, this.masks) and control.recipe == this.recipe
    assert not any(torch.equal(control.state[name], this.rewind[name]) for name in WEIGHTS)


def test_random_and_shuffle_keep_every_layers_count_and_no_place(this: Round) -> None:
    drawn, shuffled = setup("random", this), setup("shuffle", this)
    for control in (drawn, shuffled):
        for name, mask in this.masks.items():
            assert int(control.masks[name].sum()) == int(mask.sum())
            both = int((control.masks[name] & mask).sum()) / int(mask.sum())
            assert both == pytest.approx(float(mask.float().mean()), abs=0.05)  # as chance has it
    assert not same(drawn.masks, shuffled.masks)
    assert same(shuffled.state, this.rewind) and not same(drawn.state, this.rewind)


def test_sign_has_new_sizes_and_the_tickets_signs(this: Round) -> None:
    control, new = setup("sign", this), setup("reinit", this)
    for name in WEIGHTS:
        assert torch.equal(control.state[name].sign(), this.rewind[name].sign())
        assert torch.equal(control.state[name].abs(), new.state[name].abs())


def test_scratch_b_trains_as_many_operations_as_the_dense_run_but_at_most_twice_as_long(
    found: Search, this: Round
) -> None:
    # After three rounds half of the weights are left, which the next one takes below it.
    assert setup("scratch-b", this).recipe.iterations == round(4 / 0.5128)
    fewer = {name: mask.roll(1) & mask for name, mask in this.masks.items()}
    late = replace(this, ticket=this.ticket._replace(masks=fewer))
    assert setup("scratch-b", late).recipe.iterations == 8


def test_operations_of_a_network_are_counted_by_layer() -> None:
    counts = operations(zoo.model("lenet300"), torch.zeros(2, 1, 28, 28))
    assert counts == {"fc1.weight": 2 * 235_200, "fc2.weight": 2 * 30_000, "fc3.weight": 2 * 1_000}
    counts = operations(zoo.model("conv2"), torch.zeros(1, 3, 32, 32))
    assert counts["features.0.weight"] == 64 * 27 * 32 * 32


def test_regroup_moves_units_fills_blocks_and_rewinds(found: Search, this: Round) -> None:
    control = setup("regroup:16x1", this)
    for name in ("fc1.weight", "fc2.weight"):
        rows, columns = control.masks[name].shape
        blocks = control.masks[name][: rows - rows % 16].view(rows // 16, 16, columns)
        assert bool((blocks.all(1) == blocks.any(1)).all())
    assert not torch.equal(control.state["fc1.weight"], this.rewind["fc1.weight"])
    assert torch.equal(
        control.state["fc1.weight"].sort(0).values, this.rewind["fc1.weight"].sort(0).values
    )  # θ_0, its rows in another order
    x = zoo.dataset(CONFIG.task.data).test_x[:50]
    before, after = draw(CONFIG, 1.0, 0), draw(CONFIG, 1.0, 0)
    after.load_state_dict(control.state)
    assert same(copy_state(before), this.rewind)
    assert torch.allclose(before(x), after(x), atol=1e-5)


def test_narrow_and_budget_are_dense_and_run_once() -> None:
    config = SearchConfig(CONFIG.task, rounds=1, seed=2, controls=("narrow:0.5", "budget:3", "reinit"))
    found = search(config)
    (narrow,), (budget,) = found.controls["narrow:0.5"], found.controls["budget:3"]
    assert narrow.round == budget.round == 0 and narrow.sparsity == budget.sparsity == 0
    assert narrow.state["fc1.weight"].shape == (150, 784)
    assert budget.curve[-1].step == 12 and found.control("budget:3", 1) is None
    assert found.control("reinit", 1) is found.controls["reinit"][0]
    assert str(found).splitlines()[0].split()[-3:] == ["narrow:0.5", "budget:3", "reinit"]


@pytest.mark.parametrize(
    "name", ["twins", "reinit:1", "regroup", "narrow:", "regroup:16", "regroup:0x4", "budget:-1"]
)
def test_unknown_controls_and_parameters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"control '{name}'"):
        SearchConfig(CONFIG.task, controls=(name,))


def test_a_layer_that_collapsed_stays_so(this: Round) -> None:
    gone = this.masks | {"fc2.weight": torch.zeros_like(this.masks["fc2.weight"])}
    collapsed = replace(this, ticket=this.ticket._replace(masks=gone))
    for name in ("random", "shuffle", "regroup:8x1"):
        control = setup(name, collapsed)
        assert not control.masks["fc2.weight"].any() and control.masks["fc1.weight"].any()


def test_order_is_the_ticket_as_it_was_set_up() -> None:
    config = SearchConfig(
        task(iterations=6, eval_every=3, drops=(4,)), rounds=1, rewind_to=2, reset="lr", controls=("order",)
    )
    found = search(config)
    ticket, other = found.rounds[1], found.control("order", 1)
    assert other is not None and other.curve[0].step == ticket.curve[0].step == 3
    assert same(other.masks, ticket.masks) and not same(other.final, ticket.final)
    # One more step of other images from the same weights: near each other, and far from θ_k.
    gap = (other.final["fc1.weight"] - ticket.final["fc1.weight"]).norm()
    assert gap < (ticket.final["fc1.weight"] - found.rewind["fc1.weight"]).norm()


def test_every_control_of_the_table_trains() -> None:
    parameters = {"regroup": ":8x1", "narrow": ":0.3", "budget": ":1.5"}
    names = tuple(f"{name}{parameters.get(name, '')}" for name in CONTROLS)
    found = search(SearchConfig(CONFIG.task, rounds=1, controls=names))
    assert {name: len(runs) for name, runs in found.controls.items()} == dict.fromkeys(names, 1) | {
        "order": 2
    }
    assert all(0 < found.controls[name][0].test_accuracy < 1 for name in names)
