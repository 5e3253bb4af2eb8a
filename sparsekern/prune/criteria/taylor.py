"""First-order Taylor importance (Molchanov et al. 2019, arXiv 1906.10771)."""

from __future__ import annotations

from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.gradients import add_, gradients, weighed_batches, zeros
from sparsekern.prune.criteria.network import Weights, scored_at_once


def score(weight: Tensor, context: Context) -> Tensor:
    """(g · w)² of each batch, averaged over the batches by their sizes.

    g is the gradient of a batch's loss. The mean over a block ranks blocks of one size by the paper's sum
    over a group's weights. The network runs in the mode that it is in. ValueError without a model or batches.
    """
    return scored_at_once(weight, context, "taylor", _importance)


def _importance(network: nn.Module, weights: Weights, context: Context) -> Weights:
    sums = zeros(weights)
    for share, batch in weighed_batches(context, "taylor"):
        slopes = gradients(network, weights, batch, context.loss)
        add_(sums, {name: (slopes[name] * weights[name]).square() for name in weights}, share)
    return sums
