"""The mask on a layer: exact zeros for every reader, whatever an optimizer does behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sparsekern.masks import Masked, dense_state, mask_, maskable, masks_of, sparsity, unmask_

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.1),
    "weight decay": lambda weights: torch.optim.AdamW(weights, lr=0.1, weight_decay=0.5),
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def checkered(weight: Tensor) -> Tensor:
    return (torch.arange(weight.numel()).reshape(weight.shape) % 2).bool()


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_leaks_through_an_optimizer_that_remembers(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    fit(model, optimizer, 3)  # Momentum is built up before the mask comes.
    mask = checkered(model[0].weight)
    mask_(model[0], mask)
    before = model[0].weight.detach().clone()
    fit(model, optimizer, 5)
    assert bool((model[0].weight[~mask] == 0).all())
    assert bool((model[0].weight[mask] != before[mask]).all())
    unmask_(model)
    assert type(model[0]) is nn.Linear and isinstance(model[0].weight, nn.Parameter)
    assert bool((model[0].weight[~mask] == 0).all())


def test_dead_weights_get_no_gradient_and_no_nan_gets_out() -> None:
    layer = nn.Linear(4, 2)
    mask = checkered(layer.weight)
    with torch.no_grad():
        layer.weight[~mask] = float("nan")
        layer.weight[1, 0] = float("inf")
    mask_(layer, mask)
    layer(torch.ones(3, 4)).sum().backward()
    gradient = layer.parametrizations.weight.original.grad
    assert bool(layer(torch.ones(3, 4)).isfinite().all())
    assert gradient[mask].tolist() == [3.0] * 4 and gradient[~mask].tolist() == [0.0] * 4


def test_unmasking_brings_the_hidden_values_back_or_bakes_the_zeros_in() -> None:
    layer = nn.Linear(4, 2)
    original = layer.weight.detach().clone()
    mask = checkered(original)
    mask_(layer, mask)
    baked = copy.deepcopy(layer)
    unmask_(layer, keep=False)
    unmask_(baked, keep=True)
    assert torch.equal(layer.weight, original)
    assert torch.equal(baked.weight, torch.where(mask, original, 0))
    assert layer.state_dict().keys() == baked.state_dict().keys() == {"weight", "bias"}


def test_a_second_mask_replaces_the_first() -> None:
    layer = nn.Linear(4, 2)
    original = layer.weight.detach().clone()
    given = checkered(original)
    mask_(layer, given)
    mask_(layer, ~given)
    assert torch.equal(layer.weight, torch.where(given, 0, original))
    assert sum(isinstance(module, Masked) for module in layer.modules()) == 1
    mask_(layer, given)
    given.zero_()  # The layer owns a copy.
    assert bool((layer.weight != 0).any())


def test_masks_and_sparsity_are_read_back_by_parameter_name() -> None:
    model = network()
    mask_(model[2], checkered(model[2].weight))
    mask_(model[0], torch.tensor([True, False, True, True, True]), name="bias")
    assert list(masks_of(model)) == ["0.bias", "2.weight"]
    assert torch.equal(masks_of(model)["2.weight"], checkered(model[2].weight))
    assert sparsity(model) == 8 / 45  # 15 weights in the last layer, 8 of them dead; biases do not count.
    assert list(maskable(model)) == ["0", "2"]
    assert masks_of(model[2]).keys() == {"weight"}


def test_dense_state_has_the_names_and_values_of_the_baked_model() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    mask_(model[0], checkered(model[0].weight))
    mask_(model[3], checkered(model[3].weight))
    state, alone = dense_state(model), dense_state(model[3])
    unmask_(model)
    expected = model.state_dict()
    assert state.keys() == expected.keys() and alone.keys() == {"weight", "bias"}
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert torch.equal(alone["weight"], expected["3.weight"])


def test_bad_masks_are_refused_and_change_nothing() -> None:
    layer = nn.Linear(4, 2)
    for mask in (torch.ones(2, 4), torch.ones(4, 2, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"bool of shape \(2, 4\), got"):
            mask_(layer, mask)
    with pytest.raises(ValueError, match="Linear has no tensor 'weights'"):
        mask_(layer, torch.ones(2, 4, dtype=torch.bool), name="weights")
    assert masks_of(layer) == {} and "weight" in dict(layer.named_parameters())
    with pytest.raises(ValueError, match=r"ReLU has no nn\.Linear"):
        sparsity(nn.ReLU())


def test_other_parametrizations_are_not_thrown_away() -> None:
    model = network()
    mask_(model[0], checkered(model[0].weight))
    parametrizations.orthogonal(model[2])
    mask_(model[2], checkered(model[2].weight))
    with pytest.raises(ValueError, match="also parametrized by"):
        unmask_(model)
    assert list(masks_of(model)) == ["0.weight", "2.weight"]


def test_a_copy_lives_on_when_the_original_loses_or_gains_masks() -> None:
    layer = nn.Linear(4, 2)
    mask = checkered(layer.weight)
    mask_(layer, mask)
    twin = copy.deepcopy(layer)
    mask_(layer, torch.tensor([True, False]), name="bias")
    assert masks_of(twin).keys() == {"weight"} and bool((twin.bias != 0).all())
    unmask_(layer)
    assert torch.equal(twin(torch.eye(4)).T - twin.bias[:, None], twin.weight)
    assert torch.equal(twin.weight != 0, mask)


@pytest.mark.parametrize("other", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_the_dense_state_of_a_weight_with_another_parametrization_is_refused(
    other: Callable[[nn.Module], nn.Module],
) -> None:
    layer = other(nn.Linear(4, 3))
    assert dense_state(layer).keys() == layer.state_dict().keys()
    mask_(layer, torch.rand(3, 4) > 0.5)
    with pytest.raises(ValueError, match=r"Linear.weight is also parametrized by \['_\w+'\]: remove these"):
        dense_state(layer)


def test_a_computed_tensor_takes_no_mask() -> None:
    layer = nn.Linear(4, 3)
    weight = layer.weight.detach() + 0
    del layer.weight
    layer.weight = weight
    with pytest.raises(
        ValueError, match="must be a Parameter, or parametrized, to be masked, and is neither"
    ):
        mask_(layer, torch.rand(3, 4) > 0.5)
