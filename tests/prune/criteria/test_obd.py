"""Optimal brain damage: exact second derivatives, the estimate of them, and what they predict."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from sparsekern import zoo
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


def test_on_a_trained_digit_net_the_prediction_holds_and_beats_magnitude() -> None:
    """The paper's experiment in small: mean squared error, about 2000 weights, no retraining after deletion.

    LeCun et al. 1990, section 2.3: predicted and real loss part at about 30 %; magnitude does worse.
    """
    data = zoo.dataset("fashion-mnist-6k")
    inputs = nn.functional.avg_pool2d(data.train_x[:1000], 2).flatten(1)
    targets = nn.functional.one_hot(data.train_y[:1000], 10).float()
    model = nn.Sequential(nn.Linear(196, 10), nn.Tanh(), nn.Linear(10, 10))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, history_size=20)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = squared_error(model(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    context = Context(torch.Generator().manual_seed(0), model, [(inputs, targets)], squared_error)
    weights = {name: model.get_parameter(name).detach() for name in ("0.weight", "2.weight")}
    flat = {
        criterion: torch.cat(
            [CRITERIA[criterion](weight, context.of(name)).flatten() for name, weight in weights.items()]
        )
        for criterion in ("obd", "obd-hutchinson", "magnitude", "random")
    }

    def without(gone: Tensor) -> float:
        """The loss in decibels, as the paper plots it, with the weights of these flat indices at zero."""
        network = copy.deepcopy(model)
        with torch.no_grad():
            for name, dead in zip(weights, gone.split([1960, 100]), strict=True):
                weight = network.get_parameter(name)
                weight[dead.reshape(weight.shape)] = 0
            return decibels(float(squared_error(network(inputs), targets)))

    def lowest(criterion: str, share: float) -> Tensor:
        return flat[criterion] <= flat[criterion].kthvalue(int(share * 2060)).values

    dense = without(torch.zeros(2060, dtype=torch.bool))
    for share, tolerance in ((0.1, 0.3), (0.2, 0.5), (0.3, 1.0)):
        gone = lowest("obd", share)
        predicted = decibels(10 ** (dense / 10) + float(flat["obd"][gone].sum()))
        real = {criterion: without(lowest(criterion, share)) for criterion in flat}
        assert predicted == pytest.approx(real["obd"], abs=tolerance)
        assert real["obd"] < real["obd-hutchinson"] < real["random"] - 3
        assert share == 0.3 or real["obd"] < real["magnitude"] < real["random"] - 3


def decibels(loss: float) -> float:
    return 10 * math.log10(loss)
