"""Linear mode connectivity: what is convex is stable, strangers are not, and the ranges of sparsity."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.tickets.connectivity import (
    Instability,
    Level,
    Line,
    between,
    error_of,
    instability,
    line,
    ranges,
)

Train = Callable[[dict[str, Tensor], int], Mapping[str, Tensor]]


@pytest.fixture(scope="module")
def data() -> zoo.Data:
    return zoo.dataset("fashion-mnist-6k")


def trainer(model: nn.Module, data: zoo.Data, steps: int, batch: int = 50) -> Train:
    """SGD on batches whose order is that of the number."""

    def train(state: dict[str, Tensor], order: int) -> Mapping[str, Tensor]:
        model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
        draw = torch.Generator().manual_seed(order)
        for _ in range(steps):
            chosen = torch.randint(len(data.train_y), (batch,), generator=draw)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.train_x[chosen]), data.train_y[chosen]).backward()
            optimizer.step()
        return model.state_dict()

    return train


def test_a_convex_problem_is_stable(data: zoo.Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    error = error_of(model, data.val_x, data.val_y)
    found = instability(model.state_dict(), trainer(model, data, 40, batch=400), error, copies=3, places=7)
    assert len(found.lines) == 3 and all(len(one.errors) == 7 for one in found.lines)
    assert found.stable and 0 < max(found.lines[0].errors) < 0.5


def test_two_networks_of_different_initialisation_are_not_connected(data: zoo.Data) -> None:
    ends = []
    for seed in range(2):
        model = zoo.model("lenet300", torch.Generator().manual_seed(seed), width=0.3)
        state = trainer(model, data, 400)(model.state_dict(), seed)
        ends.append({name: value.clone() for name, value in state.items()})
    found = line(*ends, error_of(model, data.val_x, data.val_y), places=7)
    assert max(found.errors[0], found.errors[-1]) < 0.3 and not found.stable
    assert found.instability_points > 5 and max(found.errors) == max(found.errors[1:-1])


def test_instability_is_the_maximum_less_the_mean_of_the_ends() -> None:
    found = Line((0.10, 0.13, 0.12, 0.14))
    assert found.instability_points == pytest.approx(2.0) and Line((0.1, 0.119, 0.1)).stable
    assert not Line((0.1, 0.121, 0.1)).stable
    both = Instability((found, Line((0.1, 0.1))))
    assert both.points == pytest.approx(1.0) and both.stable


def test_the_line_is_straight_exact_at_its_ends_and_keeps_zeros() -> None:
    first = {"w": torch.tensor([0.1, 0.0, 3.0]), "n": torch.tensor(5)}
    second = {"w": torch.tensor([0.7, 0.0, -1.0]), "n": torch.tensor(9)}
    assert torch.equal(between(first, second, 0)["w"], first["w"])
    assert torch.equal(between(first, second, 1)["w"], second["w"])
    middle = between(first, second, 0.25)
    torch.testing.assert_close(middle["w"], torch.tensor([0.25, 0.0, 2.0]))
    assert int(middle["n"]) == 5
    seen: list[float] = []
    line(first, second, lambda state: seen.append(float(state["w"][2])) or 0.0, places=5)
    assert seen == [3, 2, 1, 0, -1]


def test_every_copy_starts_from_the_same_state_with_its_own_order() -> None:
    orders = []

    def train(state: dict[str, Tensor], order: int) -> Mapping[str, Tensor]:
        orders.append((order, float(state["w"])))
        state["w"] += order + 1  # in place: the next copy must not see it
        return state

    found = instability({"w": torch.zeros(())}, train, lambda state: float(state["w"]) / 10, places=3)
    assert orders == [(0, 0.0), (1, 0.0)] and found.lines[0].errors == pytest.approx((0.1, 0.15, 0.2))


def test_batch_normalisation_can_measure_anew() -> None:
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(64, 4, generator=draw)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["1.running_mean"] += 5
    y = model.train()(x).argmax(1).detach()
    assert error_of(model, x, y)(state) > 0.2
    assert error_of(model, x, y, statistics=[x])(state) == pytest.approx(0, abs=2 / 64)
    hidden = model[0](x)
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))


def test_text_is_compared_place_by_place() -> None:
    model = nn.Embedding(4, 4)
    state = {"weight": torch.eye(4)}
    x = torch.tensor([[0, 1, 2], [3, 0, 1]])
    y = torch.tensor([[0, 1, 0], [3, 0, 1]])
    assert error_of(model, x, y)(state) == pytest.approx(1 / 6)


def test_what_is_no_line_is_refused() -> None:
    one, other = {"w": torch.zeros(2), "b": torch.zeros(1)}, {"w": torch.zeros(3), "b": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"these differ in \['w'\]"):
        line(one, other, lambda state: 0.0)
    with pytest.raises(ValueError, match="at least 2 places, the ends, are expected, got 1"):
        line(one, one, lambda state: 0.0, places=1)
    with pytest.raises(ValueError, match="at least 2 copies are expected, got 1"):
        instability(one, lambda state, order: state, lambda state: 0.0, copies=1)


def test_the_ranges_of_sparsity() -> None:
    levels = [
        Level(0.9, -0.9, -8.0, 6.0),
        Level(0.2, 0.1, -0.2, 0.5),
        Level(0.5, 0.3, -0.3, 0.4),
        Level(0.8, -0.2, -4.0, 2.5),
    ]
    assert [level.range for level in sorted(levels)] == ["trivial", "matching", "matching", "too sparse"]
    assert ranges(levels).splitlines() == [
        "20.0 % zeros: trivial, even random pruning matches the dense network; 1 of 1 stable",
        "50.0 to 80.0 % zeros: matching, the ticket matches, random pruning does not; 1 of 2 stable",
        "90.0 % zeros: too sparse, the ticket does not match; 0 of 1 stable",
    ]
    assert ranges([Level(0.5, -1.0, -2.0)]) == "50.0 % zeros: too sparse, the ticket does not match"
    with pytest.raises(ValueError, match="at least one level"):
        ranges([])
