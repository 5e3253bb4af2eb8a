"""Wanda: weights by magnitude times the norm of what they meet (Sun et al. 2023, arXiv 2306.11695)."""

from __future__ import annotations

from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.inputs import per_group, unfolded, watch_inputs
from sparsekern.prune.criteria.network import Weights, scored_at_once


def score(weight: Tensor, context: Context) -> Tensor:
    """|w_ij| · ‖x_j‖₂, the norm taken over all samples and positions of input feature j.

    Features of a convolution are its unfolded inputs. The paper compares the scores within each output;
    which scores compete is the allocation's business. The network runs in eval mode. ValueError without a
    model or batches, and for a layer that was not run.
    """
    return scored_at_once(weight, context, "wanda", _products)


def _products(network: nn.Module, weights: Weights, context: Context) -> Weights:
    squares: Weights = {}

    def see(name: str, layer: nn.Module, inputs: Tensor) -> None:
        square = per_group(layer, unfolded(layer, inputs).square().sum(dim=(0, 3)))
        squares[name] = squares.get(name, 0) + square

    watch_inputs(network, context, "wanda", see)
    return {name: weights[name].abs() * squares[name].sqrt() for name in weights.keys() & squares.keys()}
