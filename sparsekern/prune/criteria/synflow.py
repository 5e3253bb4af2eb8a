"""SynFlow: the flow of absolute weights through the network, without any data.

Tanaka et al. 2020, arXiv 2006.05467, algorithm 1. One step on an untrained network is not the method: it
takes many, each scored anew under the masks of the one before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.network import Weights, scored_at_once


def score(weight: Tensor, context: Context) -> Tensor:
    """|dR/dw · w| / R, with R the sum of the outputs for an input of ones and absolute weights.

    It is the share of R that flows through the weight. In a chain of layers with ReLU, poolings and
    BatchNorm each layer's scores sum to one. Biases and what BatchNorm shifts are left out, since the
    paper's R is a product of weights alone; BatchNorm in eval mode remains as a factor. Computed in float64,
    since R grows exponentially with depth.

    Of the batches only the shape of the first inputs is looked at: `batches=[(torch.empty(1, 3, 32, 32),
    torch.empty(1))]` will do. ValueError without a model or batches.
    """
    return scored_at_once(weight, context, "synflow", _shares)


def _shares(network: nn.Module, weights: Weights, context: Context) -> Weights:
    if not context.batches:
        raise ValueError(
            "synflow needs an input's shape: Context(batches=[(inputs, targets)]) is expected, got no batch"
        )
    network.eval()
    state = {
        name: torch.zeros_like(value) if name.endswith(("bias", "running_mean")) else value.detach().abs()
        for name, value in (*network.named_parameters(), *network.named_buffers())
    }
    absolute = {name: value.double() for name, value in state.items() if value.is_floating_point()}
    for name in weights:
        absolute[name].requires_grad_()
    ones = context.batches[0][0].new_ones((1, *context.batches[0][0].shape[1:]), dtype=torch.float64)
    flow = functional_call(network, absolute, (ones,)).sum()
    slopes = torch.autograd.grad(flow, [absolute[name] for name in weights], materialize_grads=True)
    total = float(flow.detach()) or 1.0  # Nothing flows through a network that is cut: all scores are zero.
    return {
        name: (slope * absolute[name]).detach() / total for name, slope in zip(weights, slopes, strict=True)
    }
