"""Optimal brain damage: exact second derivatives, the estimate of them, and what they predict."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from sparsekern import zoo
from sparsekern.prune import prune_
from sparsekern.prune.criteria import CRITERIA, Context, obd_hutchinson
from sparsekern.prune.criteria.network import plain_copy, weights_of


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean()


def estimated(tiny, probes: int) -> Tensor:
    """The estimate of the Hessian's diagonal for all weights of the tiny network, flat."""
    network = plain_copy(tiny.context(), "test")
    weights = {name: weight.requires_grad_() for name, weight in weights_of(network).items()}
    found = obd_hutchinson.estimate_diagonal(network, weights, tiny.context(), probes)
    return torch.cat([values.flatten() for values in found.values()])


@pytest.mark.parametrize("masked", [False, True])
def test_the_diagonal_is_that_of_the_whole_hessian(tiny, masked: bool) -> None:
    """A convolution with stride, padding and groups, tanh, pooling; two batches of unequal size."""
    if masked:
        tiny.mask()
    weights = tiny.flat()
    expected = hessian(tiny.loss(), weights).diagonal() * weights**2 / 2
    assert bool((expected < 0).any())
    torch.testing.assert_close(tiny.scores("obd"), expected, rtol=1e-6, atol=1e-12)


def test_positions_of_a_sequence_count_together() -> None:
    """A linear layer that is applied at each of three places: its weight acts through all of them at once."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 2)).double()
    batch = (torch.randn(5, 3, 4).double(), torch.randint(2, (5,)))
    weight = model[0].weight.detach()

    def loss(weight: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, {"0.weight": weight}, (batch[0],))
        return nn.functional.cross_entropy(outputs, batch[1])

    expected = hessian(loss, weight).reshape(12, 12).diagonal().reshape(3, 4) * weight**2 / 2
    score = CRITERIA["obd"](weight, Context(model=model, batches=[batch]).of("0.weight"))
    torch.testing.assert_close(score.double(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("criterion", ["obd", "obd-hutchinson"])
def test_on_a_quadratic_with_diagonal_hessian_the_prediction_is_what_happens(criterion: str) -> None:
    """Inputs that are unit vectors of different lengths, and a weight that fits the targets."""
    lengths = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    layer = nn.Linear(4, 2, bias=False).double()
    weight, inputs = layer.weight.detach(), lengths.diag()
    batch = (inputs, inputs @ weight.T)
    score = CRITERIA[criterion](weight, Context(None, layer, [batch], squared_error).of("weight"))
    for index in range(8):
        deleted = weight.clone()
        deleted.view(-1)[index] = 0
        rise = squared_error(inputs @ deleted.T, batch[1])
        assert float(score.flatten()[index]) == pytest.approx(float(rise), rel=1e-6)


def test_a_loss_without_curvature_costs_nothing() -> None:
    layer = nn.Linear(3, 2)
    context = Context(None, layer, [(torch.randn(4, 3), torch.ones(4, 2))], lambda out, y: (out * y).mean())
    for criterion in ("obd", "obd-hutchinson"):
        assert torch.equal(CRITERIA[criterion](layer.weight, context.of("weight")), torch.zeros(2, 3))


def test_the_estimate_is_unbiased_with_the_variance_of_random_signs(tiny) -> None:
    """Var v_k (H v)_k is the sum of the squares beside the diagonal, of the weights alive alone."""
    alive = tiny.mask()
    whole = hessian(tiny.loss(), tiny.flat())
    beside = (whole - whole.diagonal().diag())[alive][:, alive]
    errors = {}
    for probes in (10, 160):
        estimate = estimated(tiny, probes)
        assert bool((estimate[~alive] == 0).all())
        errors[probes] = estimate[alive] - whole.diagonal()[alive]
        standard = errors[probes] / beside.square().sum(1).div(probes).sqrt()
        assert 0.5 < float(standard.square().mean().sqrt()) < 1.5
    assert float(errors[160].norm()) < float(errors[10].norm()) / 2


def test_the_estimated_score_is_not_signed(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obd_hutchinson, "PROBES", 5)
    estimate = estimated(tiny, 5)
    assert bool((estimate < 0).any())
    expected = estimate.abs() * tiny.flat() ** 2 / 2
    torch.testing.assert_close(tiny.scores("obd-hutchinson"), expected, rtol=1e-6, atol=1e-12)


def test_at_a_minimum_the_prediction_holds_and_obd_beats_magnitude_beats_random() -> None:
    """The paper's experiment in small: mean squared error, many more samples than weights, trained to a
    minimum of the loss, nothing trained after the deletion.

    LeCun, Denker & Solla 1990: predicted and real loss agree until about 30 % of the weights are deleted, and
    deleting by magnitude costs more.
    """
    data = zoo.dataset("fashion-mnist-6k")
    inputs = nn.functional.avg_pool2d(data.train_x, 4).flatten(1)
    targets = nn.functional.one_hot(data.train_y, 10).float()
    model = nn.Sequential(nn.Linear(49, 20), nn.Tanh(), nn.Linear(20, 10))
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = squared_error(model(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    context = Context(torch.Generator().manual_seed(0), model, [(inputs, targets)], squared_error)
    scores = [CRITERIA["obd"](model[at].weight, context.of(f"{at}.weight")).flatten() for at in (0, 2)]
    saliencies = torch.cat(scores).sort().values
    assert bool((saliencies >= 0).all())

    @torch.no_grad()
    def decibels_without(share: float, criterion: str) -> float:
        network = copy.deepcopy(model)
        prune_(network, share, criterion, scope="global", context=replace(context, model=None))
        return decibels(float(squared_error(network(inputs), targets)))

    loss = 10 ** (decibels_without(0, "obd") / 10)
    for share in (0.1, 0.2, 0.3):
        predicted = decibels(loss + float(saliencies[: round(share * len(saliencies))].sum()))
        obd, magnitude, random = (decibels_without(share, name) for name in ("obd", "magnitude", "random"))
        assert predicted == pytest.approx(obd, abs=0.2)
        assert obd < magnitude < random - 1
    assert obd < decibels_without(0.3, "obd-hutchinson") < random - 3


def decibels(loss: float) -> float:
    """As the paper plots losses."""
    return 10 * math.log10(loss)
