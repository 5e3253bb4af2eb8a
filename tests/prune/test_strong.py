"""Strong tickets: the best subset is found, errors fall geometrically, neurons do what least squares does."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsekern.prune.strong import neuron_subnetwork, random_block, subset_sum, weight_subnetwork


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("count", [0, 1, 2, 5, 10])
def test_the_best_subset_is_the_best_of_all(count: int) -> None:
    for target in (-9.0, -0.4, 0.0, 0.3, 1.1, 9.0):
        candidates = uniform(count)
        values = candidates.numpy()
        sums = [float(values @ np.array(bits, dtype=float)) for bits in product((0, 1), repeat=count)]
        mask = subset_sum(candidates, target)
        assert mask.dtype == torch.bool and mask.shape == (count,)
        best = min(abs(total - target) for total in sums)
        assert abs(float(candidates[mask].sum()) - target) == pytest.approx(best, abs=1e-12)


def test_the_error_of_a_sum_falls_geometrically_with_the_candidates() -> None:
    torch.manual_seed(0)
    medians = []
    for count in (6, 10, 14, 18):
        errors = []
        for target in (uniform(100) / 2).tolist():
            candidates = uniform(count)
            errors.append(abs(float(candidates[subset_sum(candidates, target)].sum()) - target))
        medians.append(float(np.median(errors)))
    # Sixteen times as many subsets for every four candidates more.
    assert all(after < before / 8 for before, after in pairwise(medians))


def test_the_error_of_a_layer_falls_geometrically_with_the_candidates() -> None:
    torch.manual_seed(0)
    weight = uniform(4, 5)
    x = torch.randn(5, 200, dtype=torch.float64)
    errors = []
    for candidates in (8, 12, 16, 20):
        first, second = random_block(5, 4, candidates)
        first_mask, second_mask = weight_subnetwork(weight, first, second)
        outputs = (second * second_mask) @ torch.relu((first * first_mask) @ x)
        errors.append(float((outputs - weight @ x).abs().median()))
        assert not bool((first_mask.sum(1) > 1).any())  # A hidden neuron reads one input.
    # By how much each time depends on the weight with the fewest candidates of one sign.
    assert all(after < before for before, after in pairwise(errors)) and errors[-1] < errors[0] / 1000


def test_a_deep_target_is_approximated_by_pruning_a_network_twice_as_deep() -> None:
    torch.manual_seed(0)
    layers = [uniform(4, 3), uniform(2, 4)]
    x = torch.randn(3, 100, dtype=torch.float64)
    wanted = layers[1] @ torch.relu(layers[0] @ x)
    found = x
    for index, weight in enumerate(layers):
        first, second = random_block(weight.shape[1], weight.shape[0], 16)
        first_mask, second_mask = weight_subnetwork(weight, first, second)
        found = (second * second_mask) @ torch.relu((first * first_mask) @ found)
        found = torch.relu(found) if index == 0 else found
    assert float((found - wanted).abs().max()) < 0.01 * float(wanted.abs().max())


def random_features(samples: int, inputs: int, count: int) -> tuple[Tensor, Tensor]:
    """(x (samples, inputs), relu features (samples, count)) of a random first layer."""
    x = torch.randn(samples, inputs, dtype=torch.float64)
    return x, torch.relu(x @ uniform(count, inputs).T)


def least_squares(features: Tensor, targets: Tensor) -> float:
    """The mean squared error of the best linear combination, by numpy."""
    solution = np.linalg.lstsq(features.numpy(), targets.numpy(), rcond=None)[0]
    return float(np.mean((features.numpy() @ solution - targets.numpy()) ** 2))


def test_pruning_neurons_reaches_the_loss_of_least_squares_on_the_same_features() -> None:
    torch.manual_seed(0)
    x, features = random_features(300, 5, 12)
    targets = torch.sin(x[:, 0] + x[:, 1])
    best = least_squares(features, targets)
    gaps = []
    for copies in (4, 8, 16, 24):
        second = uniform(12, copies)
        mask = neuron_subnetwork(features, second, targets)
        outputs = features @ (second * mask).sum(1)
        gaps.append(float((outputs - targets).square().mean()) - best)
    assert best > 0.01 and min(gaps) > -1e-12  # No choice of neurons is better,
    assert gaps[-1] < 1e-9 * best and gaps[0] > gaps[1] > gaps[2] > gaps[3]  # and a wide net is as good.


def test_no_subset_of_neurons_beats_least_squares() -> None:
    x, features = random_features(50, 3, 10)
    targets = x[:, 0] * x[:, 1]
    second = uniform(10)
    losses = [
        float((features @ (second * torch.tensor(bits)) - targets).square().mean())
        for bits in product((0.0, 1.0), repeat=10)
    ]
    assert min(losses) > least_squares(features, targets)


def test_pruning_weights_is_strictly_better_where_a_feature_is_needed_that_is_not_random() -> None:
    """The target is relu(x_0) of 20 inputs. 40 random neurons mix all inputs, and even least squares on them
    misses it; without 19 of each one's 20 weights, they are multiples of relu(x_0) or of relu(-x_0)."""
    torch.manual_seed(0)
    x = torch.randn(2000, 20, dtype=torch.float64)
    first, second = uniform(40, 20), uniform(40)
    targets = torch.relu(x[:, 0])
    neurons = least_squares(torch.relu(x @ first.T), targets)
    passing = (first[:, 0] > 0).nonzero().flatten()[:20]
    mask = torch.zeros(40, 20, dtype=torch.bool)
    mask[passing[subset_sum(first[passing, 0] * second[passing], 1.0)], 0] = True
    outputs = torch.relu(x @ (first * mask).T) @ second
    weights = float((outputs - targets).square().mean())
    assert neurons > 0.01 and weights < 1e-6


def test_wrong_shapes_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"n at most 44 expected, got shape \(45,\)"):
        subset_sum(uniform(45), 1.0)
    with pytest.raises(ValueError, match=r"\(k \* 3, 3\) and \(2, k \* 3\) are expected, got \(4, 3\)"):
        weight_subnetwork(uniform(2, 3), uniform(4, 3), uniform(2, 4))
    with pytest.raises(ValueError, match=r"second \(5, copies\) and targets \(9,\) are expected"):
        neuron_subnetwork(uniform(9, 5), uniform(4, 2), uniform(9))
