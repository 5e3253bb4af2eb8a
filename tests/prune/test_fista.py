"""Proximal training: the rate that Beck & Teboulle prove, exact zeros, whole blocks, and block tickets."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsekern.masks import mask_, pool
from sparsekern.prune.fista import Fista, fista_iterates, penalised, penalty, soft_threshold, support

ENOUGH = 700  # iterations, after which F changes by less than 1e-11
BLOCKS = [(1, 1), (3, 1), (2, 4), (5, 7), (9, 2)]


def group_lasso() -> tuple[Tensor, Tensor, float, float]:
    """float64 (matrix, targets, L, strength) of 0.5 |A W' - B|² + strength * penalty, W (6, 10)."""
    matrix = torch.randn(15, 10, dtype=torch.float64) * torch.linspace(1, 0.2, 10, dtype=torch.float64)
    truth = torch.zeros(6, 10, dtype=torch.float64)
    truth[:2, -3:] = torch.randn(2, 3, dtype=torch.float64)
    targets = matrix @ truth.T + 0.1 * torch.randn(15, 6, dtype=torch.float64)
    lipschitz = float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    return matrix, targets, lipschitz, 0.5


@lru_cache
def run(block: tuple[int, int], iterations: int, momentum: bool) -> tuple[list[float], Tensor]:
    """F at the start and after each iteration, and the last iterate."""
    torch.manual_seed(1)
    matrix, targets, lipschitz, strength = group_lasso()
    start = torch.full((6, 10), 0.5, dtype=torch.float64)

    def objective(x: Tensor) -> float:
        return 0.5 * float((matrix @ x.T - targets).square().sum()) + strength * penalty(x, block)

    def gradient(x: Tensor) -> Tensor:
        return (matrix @ x.T - targets).T @ matrix

    found = list(islice(fista_iterates(gradient, start, lipschitz, strength, block, momentum), iterations))
    return [objective(x) for x in (start, *found)], found[-1]


def independent_threshold(weight: np.ndarray, amount: float, block: tuple[int, int]) -> np.ndarray:
    """Block by block in float64, by the definition."""
    # Blocks of several outputs and part of a kernel span channels, so the kernel's places come first.
    spans_channels = weight.ndim == 4 and min(block) > 1 and block[1] % (weight.shape[2] * weight.shape[3])
    turned = np.moveaxis(weight, 1, -1) if spans_channels else weight
    result = turned.reshape(len(weight), -1).astype(np.float64)
    for row in range(0, result.shape[0], block[0]):
        for col in range(0, result.shape[1], block[1]):
            piece = result[row : row + block[0], col : col + block[1]]
            length = np.linalg.norm(piece)
            limit = amount * np.sqrt(piece.size)
            piece *= 0 if length <= limit else 1 - limit / length
    result = result.reshape(turned.shape)
    return np.moveaxis(result, -1, 1) if spans_channels else result


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(7, 10), (6, 5, 3, 3), (1, 1)])
def test_thresholds_are_those_of_a_computation_block_by_block(
    block: tuple[int, int], shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape)
    for amount in (0.0, 0.3, 0.9, 10.0):
        truth = independent_threshold(weight.numpy(), amount, block)
        found = soft_threshold(weight, amount, block)
        assert found.dtype == torch.float32
        assert np.allclose(found.numpy(), truth, rtol=0, atol=1e-6)
        assert np.array_equal(found.numpy() == 0, truth == 0)
        assert not bool(torch.signbit(found[found == 0]).any()) or block == (1, 1)
    assert not bool(soft_threshold(weight, 10.0, block).any())


def test_an_all_zero_block_stays_and_no_amount_changes_nothing() -> None:
    weight = torch.randn(4, 6)
    weight[:2, :3] = 0
    assert torch.equal(soft_threshold(weight, 0.0, (2, 3)), weight)
    assert torch.equal(soft_threshold(weight, 0.0), weight)
    assert not bool(soft_threshold(weight, 0.1, (2, 3))[:2, :3].any())


@pytest.mark.parametrize("block", BLOCKS)
def test_the_penalty_is_the_one_that_the_threshold_minimises(block: tuple[int, int]) -> None:
    """prox(v) minimises 0.5 |x - v|² + amount * penalty(x): no neighbour is lower."""
    v = torch.randn(6, 10, dtype=torch.float64)
    best = soft_threshold(v, 0.4, block)

    def value(x: Tensor) -> float:
        return 0.5 * float((x - v).square().sum()) + 0.4 * penalty(x, block)

    for scale in (1e-3, 1e-1, 1.0):
        assert all(value(best) < value(best + scale * torch.randn_like(v)) for _ in range(20))


@pytest.mark.parametrize("block", BLOCKS)
def test_fista_keeps_the_promised_rate_at_every_iteration(block: tuple[int, int]) -> None:
    far, best = run(block, ENOUGH, True)
    lowest = min(far)
    torch.manual_seed(1)
    lipschitz = group_lasso()[2]
    distance = float((torch.full((6, 10), 0.5, dtype=torch.float64) - best).square().sum())
    for momentum in (True, False):
        gaps = [value - lowest for value in run(block, 100, momentum)[0]]
        assert gaps[1] > 1e-3  # Else the bounds below would be met by anything.
        for k, gap in enumerate(gaps[1:], start=1):
            bound = 2 * lipschitz * distance / (k + 1) ** 2 if momentum else lipschitz * distance / (2 * k)
            assert gap <= bound
    assert bool((pool(best != 0, block) == 0).any())  # Some blocks are exactly zero,
    assert bool(best.any())  # and some are not.


def test_ista_needs_more_steps() -> None:
    lowest = min(run((1, 1), ENOUGH, True)[0])

    def steps(momentum: bool) -> int:
        gaps = [value - lowest for value in run((1, 1), ENOUGH, momentum)[0]]
        return next(k for k, gap in enumerate(gaps) if gap < 1e-6)

    assert steps(True) * 2 < steps(False)


def test_the_optimizer_without_momentum_is_ista_to_the_bit() -> None:
    torch.manual_seed(1)
    matrix, targets, lipschitz, strength = group_lasso()
    weight = nn.Parameter(torch.full((6, 10), 0.5, dtype=torch.float64))
    optimizer = Fista([weight], 1 / lipschitz, strength, (2, 4), momentum=False)
    for _ in range(50):
        optimizer.zero_grad()
        (0.5 * (matrix @ weight.T - targets).square().sum()).backward()
        optimizer.step()
    expected = run((2, 4), 50, False)[1]
    assert torch.allclose(weight, expected, rtol=0, atol=1e-12)
    assert torch.equal(weight == 0, expected == 0)


def test_the_optimizer_with_momentum_arrives_where_fista_does_and_settles_on_zeros() -> None:
    torch.manual_seed(1)
    matrix, targets, lipschitz, strength = group_lasso()
    weight = nn.Parameter(torch.full((6, 10), 0.5, dtype=torch.float64))
    optimizer = Fista([weight], 1 / lipschitz, strength, (3, 1))

    def closure() -> float:
        optimizer.zero_grad()
        loss = 0.5 * (matrix @ weight.T - targets).square().sum()
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(400)]
    optimizer.settle_()
    expected = run((3, 1), ENOUGH, True)[1]
    assert losses[0] is not None and losses[-1] is not None and losses[-1] < losses[0]
    assert torch.allclose(weight, expected, rtol=0, atol=1e-6)
    assert torch.equal(weight == 0, expected == 0)


def test_settled_parameters_are_the_proximal_point_and_momentum_is_ahead_of_it() -> None:
    torch.manual_seed(1)
    matrix, targets, lipschitz, strength = group_lasso()
    weight = nn.Parameter(torch.full((6, 10), 0.5, dtype=torch.float64))
    optimizer = Fista([weight], 1 / lipschitz, strength, (3, 1))
    for _ in range(5):  # Too early for momentum to point uphill.
        optimizer.zero_grad()
        (0.5 * (matrix @ weight.T - targets).square().sum()).backward()
        optimizer.step()
    fifth = run((3, 1), 5, True)[1]
    assert not torch.allclose(weight, fifth, rtol=0, atol=1e-3)
    optimizer.settle_()
    assert torch.allclose(weight, fifth, rtol=0, atol=1e-12)


def test_the_support_is_every_block_with_a_weight() -> None:
    weight = torch.zeros(5, 6)
    weight[4, 1] = weight[0, 2] = weight[1, 3] = -1e-30
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[:2, 2:4] = expected[4, :2] = True
    assert torch.equal(support(weight, (2, 2)), expected)
    assert torch.equal(support(weight), weight != 0)


def test_training_makes_a_block_ticket() -> None:
    """8 of 64 inputs matter: whole columns of 16 become zero, and what is left predicts."""
    torch.manual_seed(0)
    inputs = torch.randn(512, 64)
    labels = (inputs[:, :4].sum(1) > inputs[:, 4:8].prod(1)).long()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    groups = penalised(model, 0.01, block=(16, 1))
    optimizer = Fista(groups, lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    optimizer.settle_()
    first = model[0]
    mask = support(first.weight.detach(), (16, 1))
    dead = pool(mask, (16, 1)) == 0
    assert dead.shape == (2, 64) and 0.5 < float(dead.float().mean()) < 0.95
    assert bool(first.bias.all())  # Biases are not penalised.
    before = model(inputs)
    assert float((before.argmax(1) == labels).float().mean()) > 0.9
    mask_(first, mask)
    assert torch.equal(model(inputs), before)


def test_wrong_values_are_refused_in_words() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="amount must be at least 0, got -1"):
        soft_threshold(weight, -1)
    with pytest.raises(ValueError, match="lipschitz must be above 0, got 0"):
        next(fista_iterates(lambda x: x, weight, 0, 1))
    with pytest.raises(ValueError, match=r"lr > 0 and strength >= 0 expected, got 0\.1 and -1"):
        Fista([weight], 0.1, -1)
    model = nn.Sequential(nn.Linear(2, 2))
    mask_(model[0], torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="layer 0: weight must be a plain Parameter: call unmask_ first"):
        penalised(model, 0.1)
