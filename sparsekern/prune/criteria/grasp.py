"""GraSP: keep the weights that the gradient's flow needs (Wang et al. 2020, arXiv 2002.07376)."""

from __future__ import annotations

from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.gradients import add_, gradients, hessian_product, weighed_batches, zeros
from sparsekern.prune.criteria.network import Weights, alive_of, scored_at_once

TEMPERATURE = 200.0
"""What the network's outputs are divided by before the loss, as in the paper's experiments."""


def score(weight: Tensor, context: Context) -> Tensor:
    """w · (H g), signed: g and H are the loss's first and second derivatives for the weights alive.

    Removing w changes |g|² by about -2 w (H g); so weights with the lowest score, whose removal keeps or
    raises the flow, go first. (The paper writes the negative and drops the highest.) It is meant for networks
    before training. The network runs in the mode that it is in. ValueError without a model or batches.
    """
    return scored_at_once(weight, context, "grasp", _flow)


def _flow(network: nn.Module, weights: Weights, context: Context) -> Weights:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return context.loss(outputs / TEMPERATURE, targets)

    slopes = zeros(weights)
    for share, batch in weighed_batches(context, "grasp"):
        add_(slopes, gradients(network, weights, batch, loss), share)
    # Through dead weights nothing flows, though the plain copy has gradients for them.
    for name, mask in alive_of(context).items():
        if name in slopes:
            slopes[name] *= mask
    products = zeros(weights)
    for share, batch in weighed_batches(context, "grasp"):
        add_(products, hessian_product(network, weights, batch, loss, slopes), share)
    return {name: products[name] * weights[name] for name in weights}
