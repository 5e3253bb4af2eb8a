"""SNIP: how much the loss reacts to each connection (Lee et al. 2019, arXiv 1810.02340)."""

from __future__ import annotations

from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.gradients import add_, gradients, weighed_batches, zeros
from sparsekern.prune.criteria.network import Weights, scored_at_once


def score(weight: Tensor, context: Context) -> Tensor:
    """|g · w|, g the gradient of the mean loss over all samples of the batches.

    The paper divides by the sum over all weights, which changes no order. The network runs in the mode that
    it is in: the paper scores a new network in training mode. ValueError without a model or batches.
    """
    return scored_at_once(weight, context, "snip", _sensitivity)


def _sensitivity(network: nn.Module, weights: Weights, context: Context) -> Weights:
    slopes = zeros(weights)
    for share, batch in weighed_batches(context, "snip"):
        add_(slopes, gradients(network, weights, batch, context.loss), share)
    return {name: (slopes[name] * weights[name]).abs() for name in weights}
