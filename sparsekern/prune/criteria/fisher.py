"""Fisher pruning (Theis et al. 2018, arXiv 1801.05787): optimal brain damage with the empirical Fisher
information in place of the second derivatives."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.gradients import add_, gradients, weighed_batches, zeros
from sparsekern.prune.criteria.network import Weights, scored_at_once


def score(weight: Tensor, context: Context) -> Tensor:
    """w² / 2 times the mean over the samples of the squared gradient of the sample's own loss.

    The network runs in eval mode on one sample at a time: a forward and a backward pass for each sample.
    ValueError without a model or batches.
    """
    return scored_at_once(weight, context, "fisher", _information)


def _information(network: nn.Module, weights: Weights, context: Context) -> Weights:
    network.eval()
    singles = [
        (inputs[at : at + 1], targets[at : at + 1])
        for inputs, targets in context.batches
        for at in range(len(inputs))
    ]
    squares = zeros(weights)
    for share, sample in weighed_batches(replace(context, batches=singles), "fisher"):
        slopes = gradients(network, weights, sample, context.loss)
        add_(squares, {name: slope.square() for name, slope in slopes.items()}, share)
    return {name: squares[name] * weights[name].square() / 2 for name in weights}
