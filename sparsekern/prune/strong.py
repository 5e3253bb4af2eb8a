"""Strong tickets: a random network is pruned, and what is left computes what was wanted; nothing is trained.

Pruning weights can approximate any network: two random layers with ReLU between stand for each of its layers,
and each of its weights is the sum of a subset of the products that lead through them (Malach et al. 2020,
arXiv 2002.00585). The best of all subsets of n candidates has an error that falls geometrically with n, so
that a logarithmic width is enough (Pensia et al. 2020, arXiv 2006.07990).

Pruning whole neurons is weaker: it does what a linear combination of random features does, no more.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_CANDIDATES = 44
"""Subset sums of more would take more than 2^22 sums for each half."""


def subset_sum(candidates: Tensor, target: float) -> Tensor:
    """The subset of `candidates` (n,) whose sum is nearest to `target`, as a bool mask (n,): truly the best.

    All subsets of each half are summed, in float64, and for each of one half the best of the other is looked
    up (Horowitz & Sahni 1974): O(n 2^(n/2)) time and memory. The empty set is one of them. ValueError for
    other than one dimension or more than MOST_CANDIDATES.
    """
    if candidates.ndim != 1 or len(candidates) > MOST_CANDIDATES:
        raise ValueError(
            f"candidates (n,) with n at most {MOST_CANDIDATES} expected, got shape {tuple(candidates.shape)}"
        )
    half = len(candidates) // 2
    left, right = _all_sums(candidates[:half]), _all_sums(candidates[half:])
    ordered, order = right.sort()
    above = torch.searchsorted(ordered, target - left).clamp(max=len(ordered) - 1)
    near = torch.stack([above, (above - 1).clamp(min=0)])
    errors = (left + ordered[near] - target).abs()
    at, which = divmod(int(errors.argmin()), len(left))
    bits = which | int(order[near[at, which]]) << half
    chosen = [bool(bits >> index & 1) for index in range(len(candidates))]
    return torch.tensor(chosen, dtype=torch.bool)


def _all_sums(values: Tensor) -> Tensor:
    """The sum of every subset of `values` (n,), float64 (2^n,); bit i of an index says whether i is in."""
    sums = torch.zeros(1, dtype=torch.float64)
    for value in values.double():
        sums = torch.cat([sums, sums + value])
    return sums


def random_block(
    inputs: int, outputs: int, candidates: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Two random layers, float64 (hidden, inputs) and (outputs, hidden); hidden is 2 * candidates * inputs.

    All weights are uniform in [-1, 1] and there are no biases, as in Pensia et al. 2020, arXiv 2006.07990.
    """
    hidden = 2 * candidates * inputs
    first = torch.rand(hidden, inputs, generator=generator, dtype=torch.float64) * 2 - 1
    second = torch.rand(outputs, hidden, generator=generator, dtype=torch.float64) * 2 - 1
    return first, second


def weight_subnetwork(weight: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of `first` and `second` with which ``second @ relu(first @ x)`` comes near ``weight @ x``.

    weight: (outputs, inputs); first: (hidden, inputs), second: (outputs, hidden), hidden a multiple of the
    inputs. Each input has a run of hidden neurons for itself. Those of positive weight pass its positive
    part, those of negative weight the negative one; for either part and each output the subset is chosen
    whose products sum to the weight best (Pensia et al. 2020, arXiv 2006.07990). So of 2 n neurons a run,
    about n are candidates for each sum. ValueError for shapes that do not fit, and as `subset_sum`.
    """
    outputs, inputs = weight.shape
    hidden = len(first)
    if first.shape[1] != inputs or tuple(second.shape) != (outputs, hidden) or hidden % inputs:
        raise ValueError(
            f"for a weight of {tuple(weight.shape)}, (k * {inputs}, {inputs}) and ({outputs}, k * {inputs}) "
            f"are expected, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    second_mask = torch.zeros(second.shape, dtype=torch.bool)
    run = hidden // inputs
    for column in range(inputs):
        neurons = torch.arange(column * run, (column + 1) * run)
        for sign in (1, -1):
            passing = neurons[first[neurons, column].sign() == sign]
            products = first[passing, column] * second[:, passing]
            for row in range(outputs):
                second_mask[row, passing] = subset_sum(products[row], float(weight[row, column]))
    own_input = torch.arange(hidden)[:, None] // run == torch.arange(inputs)
    return own_input & second_mask.any(0)[:, None], second_mask


def neuron_subnetwork(features: Tensor, second: Tensor, targets: Tensor) -> Tensor:
    """Which neurons of a random two-layer network to keep, so that it predicts as least squares would.

    features: (m, n), the outputs of n random hidden neurons on m samples; second: (n, copies), the random
    output weights of as many neurons with the same feature, as a wide enough network has them; targets:
    (m,). Returns a bool mask (n, copies): the kept copies of a feature sum to its coefficient in the least
    squares solution (Malach et al. 2020, arXiv 2002.00585). No choice of neurons can be better
    than that solution. ValueError for shapes that do not fit, and as `subset_sum`.
    """
    samples, count = features.shape
    if len(second) != count or tuple(targets.shape) != (samples,):
        raise ValueError(
            f"for features of {tuple(features.shape)}, second ({count}, copies) and targets ({samples},) are "
            f"expected, got {tuple(second.shape)} and {tuple(targets.shape)}"
        )
    solution = torch.linalg.lstsq(features.double(), targets.double()[:, None], driver="gelsd").solution
    return torch.stack([subset_sum(second[index], float(solution[index])) for index in range(count)])
