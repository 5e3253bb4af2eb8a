"""Stochastic freezing: a frozen weight does not move, whatever the optimizer remembers; p = 0 is plain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsekern.masks import mask_, sparsity
from sparsekern.prune import prune_
from sparsekern.prune.freeze import frozen_step_

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "momentum": lambda weights: torch.optim.SGD(
        weights, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.1, weight_decay=0.1),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.1, weight_decay=0.5),
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Dropout(0.2), nn.Linear(50, 3))


def weights_of(model: nn.Sequential) -> list[Tensor]:
    return [model[0].weight, model[3].weight]


def backward(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 6)).square().mean().backward()


def under_way(name: str) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """The same network every time, after three steps, so that momentum has something to go on with, and with
    a gradient."""
    torch.manual_seed(3)
    model = network()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    for _ in range(3):
        backward(model, optimizer)
        optimizer.step()
    backward(model, optimizer)
    return model, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_weights_are_unchanged_to_the_bit_and_the_others_make_the_plain_step(name: str) -> None:
    model, optimizer = under_way(name)
    plain, plain_optimizer = under_way(name)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    plain_optimizer.step()
    frozen_step_(optimizer, weights_of(model), 0.3, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for old, new, moved in zip(before, model.parameters(), plain.parameters(), strict=True):
        frozen = torch.zeros_like(old, dtype=torch.bool)
        if old.ndim == 2:  # Biases are not named.
            frozen = torch.rand(old.shape, generator=generator) < 0.3
        assert torch.equal(new[frozen], old[frozen]) and torch.equal(new[~frozen], moved[~frozen])
        assert not bool((moved == old).any())
    states = [each.state_dict()["state"] for each in (optimizer, plain_optimizer)]
    for key, entry in states[0].items():
        for field, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][key][field]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_probability_of_zero_is_plain_training_to_the_bit(name: str) -> None:
    """With dropout in the network, which shares torch's own generator: nothing may be drawn."""
    results = []
    for frozen in (True, False):
        torch.manual_seed(7)
        model = network()
        optimizer = OPTIMIZERS[name](list(model.parameters()))
        for _ in range(5):
            backward(model, optimizer)
            if frozen:
                frozen_step_(optimizer, weights_of(model), 0.0)
            else:
                optimizer.step()
        results.append(model.state_dict())
        assert bool(model[0].weight.isfinite().all())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_share_of_frozen_weights_is_the_probability_and_new_in_every_step() -> None:
    weight = nn.Parameter(torch.zeros(200, 200))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    moved = []
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        before = weight.detach().clone()
        frozen_step_(optimizer, [weight], 0.7)
        moved.append(weight != before)
    shares = [float(step.float().mean()) for step in moved]
    assert shares == pytest.approx([0.3, 0.3], abs=0.01)
    assert float((moved[0] & moved[1]).float().mean()) == pytest.approx(0.09, abs=0.01)
    weight.grad = torch.ones_like(weight)
    before = weight.detach().clone()
    frozen_step_(optimizer, [weight], 1.0)
    assert torch.equal(weight, before)


def test_frozen_training_learns_and_is_pruned_layer_by_layer() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(256, 6)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    model = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        frozen_step_(optimizer, [model[0].weight, model[2].weight], 0.5)
    prune_(model, sparsity=0.6, scope="layer")
    assert sparsity(model) == pytest.approx(0.6, abs=0.01)
    assert float((model(inputs).argmax(1) == labels).float().mean()) > 0.95


def test_wrong_values_are_refused_in_words() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model[0].weight.detach().clone()
    backward(model, optimizer)
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 1\.5"):
        frozen_step_(optimizer, weights_of(model), 1.5)
    mask_(model[0], torch.ones(50, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got others of shapes \[\(50, 6\)\]"):
        frozen_step_(optimizer, weights_of(model), 0.5)
    assert torch.equal(model[0].weight, before)
