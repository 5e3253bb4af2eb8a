"""What criteria do with the network: copy it, find its weights, score all of them at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsekern.masks import Masked, masks_of, unmask_
from sparsekern.prune.criteria.context import Context
from sparsekern.prune.layers import pruned_layers

Weights = dict[str, Tensor]


def plain_copy(context: Context, criterion: str) -> nn.Module:
    """A copy of the model without masks: effective weights are plain parameters, and none wants a gradient.

    Whatever is done to it, the model keeps its modes, its gradients and its running statistics.
    ValueError without a model.
    """
    if context.model is None:
        raise ValueError(f"{criterion} looks at the network: Context(model=...) is expected, got none")
    network = copy.deepcopy(context.model)
    unmask_(network)
    return network.requires_grad_(False)


def weights_of(network: nn.Module) -> Weights:
    """The weights of `pruned_layers` by parameter name, without those that are computed."""
    return {
        name: layer.weight
        for name, layer in pruned_layers(network).items()
        if isinstance(layer.weight, nn.Parameter)
    }


def alive_of(context: Context) -> Weights:
    """The masks on the model by parameter name: what a plain copy cannot tell from zeros."""
    return {} if context.model is None else masks_of(context.model)


def raw_weight(layer: nn.Module) -> nn.Parameter:
    """The Parameter that training moves: the weight itself, or what a mask of ours lies on.

    ValueError for a layer without one, or whose weight is parametrized by something else.
    """
    raw: object = getattr(layer, "weight", None)
    if parametrize.is_parametrized(layer, "weight"):
        chain = cast(parametrize.ParametrizationList, cast(nn.ModuleDict, layer.parametrizations)["weight"])
        raw = chain.original if all(isinstance(step, Masked) for step in chain) else None
    if not isinstance(raw, nn.Parameter):
        raise ValueError(f"{type(layer).__name__}.weight must be a Parameter, with a mask or without")
    return raw


def layer_of(network: nn.Module, weight: Tensor, context: Context, criterion: str) -> nn.Module:
    """The layer of a plain copy that has the parameter `context.name`.

    ValueError if there is none, or if `weight` is not what it holds: then it was changed since.
    """
    _require_same(weights_of(network), weight, context, criterion)
    return network.get_submodule(context.name.rpartition(".")[0])


def scored_at_once(
    weight: Tensor,
    context: Context,
    criterion: str,
    compute: Callable[[nn.Module, Weights, Context], Weights],
) -> Tensor:
    """The float32 scores of `context.name`, of those that `compute(copy, weights, context)` gives for all.

    `compute` runs once a step, on a plain copy whose weights want gradients. ValueError without a model,
    for a name that it has not or has no score for, and for a `weight` that is not the one that was scored.
    """
    if criterion not in context.cache:
        network = plain_copy(context, criterion)
        weights = weights_of(network)
        for parameter in weights.values():
            parameter.requires_grad_()
        with torch.enable_grad():
            context.cache[criterion] = (weights, compute(network, weights, context))
    weights, scores = cast(tuple[Weights, Weights], context.cache[criterion])
    _require_same(weights, weight, context, criterion)
    if context.name not in scores:
        raise ValueError(f"{criterion}: the network never called the layer of {context.name!r}")
    return scores[context.name].detach().to(torch.float32)


def _require_same(weights: Weights, weight: Tensor, context: Context, criterion: str) -> None:
    if context.name not in weights:
        raise ValueError(
            f"{criterion} needs the name of a weight that a layer to prune holds as a Parameter: "
            f"one of {list(weights)} is expected, got {context.name!r}"
        )
    expected = weights[context.name]
    if weight.shape != expected.shape or not torch.allclose(
        weight.detach(), expected.detach(), rtol=0, atol=0, equal_nan=True
    ):
        raise ValueError(
            f"{criterion}: the weight of {context.name!r} is not the one that the context's model had: "
            "a new Context for each step is expected"
        )
