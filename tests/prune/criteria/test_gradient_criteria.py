"""SNIP, Taylor, Fisher and GraSP against derivatives taken directly, dense and masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call, grad

from sparsekern.prune.criteria import CRITERIA, Context


@pytest.mark.parametrize("masked", [False, True])
def test_snip_is_the_gradient_of_the_mean_loss_times_the_weight(tiny, masked: bool) -> None:
    if masked:
        tiny.mask()
    slope = grad(tiny.loss())(tiny.flat())
    torch.testing.assert_close(tiny.scores("snip"), (slope * tiny.flat()).abs(), rtol=1e-6, atol=1e-9)


def test_taylor_squares_each_batch_before_it_averages(tiny) -> None:
    expected = torch.zeros(72, dtype=torch.float64)
    for inputs, targets in tiny.batches:
        tiny.model.zero_grad()
        nn.functional.cross_entropy(tiny.model(inputs), targets).backward()
        slopes = torch.cat([tiny.model.get_parameter(name).grad.flatten() for name in tiny.names])
        expected += len(inputs) / 5 * (slopes * tiny.flat()) ** 2
    torch.testing.assert_close(tiny.scores("taylor"), expected, rtol=1e-6, atol=1e-12)


def test_fisher_is_the_mean_squared_gradient_of_single_samples(tiny) -> None:
    weights = tiny.weights()

    def loss(weights, x, y):
        return nn.functional.cross_entropy(functional_call(tiny.model, weights, (x[None],)), y[None])

    inputs, targets = (torch.cat(parts) for parts in zip(*tiny.batches, strict=True))
    slopes = torch.func.vmap(grad(loss), (None, 0, 0))(weights, inputs, targets)
    expected = torch.cat(
        [(slopes[name].square().mean(0) * weights[name].square() / 2).flatten() for name in weights]
    )
    torch.testing.assert_close(tiny.scores("fisher"), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_grasp_is_the_weight_times_hessian_times_gradient_at_temperature_200(tiny, masked: bool) -> None:
    alive = tiny.mask() if masked else torch.ones(72, dtype=torch.bool)
    loss, weights = tiny.loss(scale=1 / 200), tiny.flat()
    slope = grad(loss)(weights) * alive
    expected = weights * (hessian(loss, weights) @ slope)
    scores = tiny.scores("grasp")
    assert bool((scores < 0).any()) and bool((scores > 0).any())
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-14)


def test_grasp_drops_first_what_the_gradient_norm_misses_least(tiny) -> None:
    """Each weight taken alone, a little: the norm's change is -2 · score to first order."""
    loss, weights = tiny.loss(scale=1 / 200), tiny.flat()
    norm = grad(loss)(weights).square().sum()
    step = 1e-4
    lost = []
    for index in range(len(weights)):
        shrunk = weights.clone()
        shrunk[index] *= 1 - step
        lost.append((norm - grad(loss)(shrunk).square().sum()) / (2 * step))
    torch.testing.assert_close(tiny.scores("grasp"), torch.stack(lost), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("criterion", ["snip", "taylor", "grasp"])
def test_batchnorm_counts_in_the_mode_that_the_network_is_in(criterion: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    batch = (torch.randn(8, 4) + 3, torch.randint(3, (8,)))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def scores() -> torch.Tensor:
        return CRITERIA[criterion](model[0].weight, Context(model=model, batches=[batch]).of("0.weight"))

    training = scores()
    assert model.training
    model.eval()
    assert not torch.allclose(training, scores(), rtol=1e-2, atol=0)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
