"""Optimal brain damage for large networks: the second derivatives are estimated.

LeCun, Denker & Solla 1990 (NeurIPS 2), with the estimator of a diagonal by random signs of Bekas, Kokiopoulou
& Saad 2007 (Applied Numerical Mathematics 57), after Hutchinson.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.gradients import add_, hessian_product, weighed_batches, zeros
from sparsekern.prune.criteria.network import Weights, alive_of, scored_at_once

PROBES = 100
"""Random vectors. The error of an h_kk is the norm of the rest of its row of H, over their root."""


def score(weight: Tensor, context: Context) -> Tensor:
    """|h_kk| · w_k² / 2, where h_kk is estimated as the mean of v_k (H v)_k over random signs v.

    Not signed, unlike "obd": noise would make the weights with the largest row of H come out lowest as often
    as highest, and drop them first. It costs PROBES Hessian-vector products over the data. The network runs
    in eval mode, the signs are drawn from the context's generator. ValueError without a model or batches.
    """
    return scored_at_once(weight, context, "obd-hutchinson", _saliency)


def _saliency(network: nn.Module, weights: Weights, context: Context) -> Weights:
    diagonal = estimate_diagonal(network.eval(), weights, context, PROBES)
    return {name: diagonal[name].abs() * weights[name].square() / 2 for name in weights}


def estimate_diagonal(network: nn.Module, weights: Weights, context: Context, probes: int) -> Weights:
    """The second derivative of the mean loss for each weight, estimated from `probes` random vectors."""
    alive = alive_of(context)
    diagonal = zeros(weights)
    for _ in range(probes):
        signs = {name: _signs(weight, context.generator) for name, weight in weights.items()}
        for name in signs.keys() & alive.keys():
            signs[name] *= alive[name]  # A dead weight would only add noise.
        for share, batch in weighed_batches(context, "obd-hutchinson"):
            products = hessian_product(network, weights, batch, context.loss, signs)
            add_(diagonal, {name: signs[name] * products[name] for name in weights}, share / probes)
    return diagonal


def _signs(weight: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randint(2, weight.shape, generator=generator).mul_(2).sub_(1).to(weight)
