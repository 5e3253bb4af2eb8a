"""Derivatives of the loss over the context's batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from sparsekern.prune.criteria.context import Batch, Context, Loss
from sparsekern.prune.criteria.network import Weights


def weighed_batches(context: Context, criterion: str) -> Iterator[tuple[float, Batch]]:
    """Each batch with its share of all samples, so that a sum of means is the mean over the samples.

    ValueError if there is no batch.
    """
    if not context.batches:
        raise ValueError(
            f"{criterion} looks at data: Context(batches=[(inputs, targets), ...]) is expected, got no batch"
        )
    total = sum(len(inputs) for inputs, _ in context.batches)
    for inputs, targets in context.batches:
        yield len(inputs) / total, (inputs, targets)


def gradients(
    network: nn.Module, weights: Weights, batch: Batch, loss: Loss, create_graph: bool = False
) -> Weights:
    """The gradient of one batch's loss for every weight; zeros for a weight that was not used."""
    inputs, targets = batch
    slopes = torch.autograd.grad(
        loss(network(inputs), targets),
        list(weights.values()),
        create_graph=create_graph,
        materialize_grads=True,
    )
    return dict(zip(weights, slopes, strict=True))


def hessian_product(
    network: nn.Module, weights: Weights, batch: Batch, loss: Loss, vector: Weights
) -> Weights:
    """H v, where H holds the second derivatives of one batch's loss for all weights; two differentiations."""
    slopes = gradients(network, weights, batch, loss, create_graph=True)
    along = sum(((slopes[name] * vector[name]).sum() for name in weights), torch.zeros(()))
    if not along.requires_grad:  # The slope is the same everywhere.
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}
    products = torch.autograd.grad(along, list(weights.values()), materialize_grads=True)
    return dict(zip(weights, products, strict=True))


def add_(sums: Weights, terms: Weights, factor: float) -> None:
    """sums += factor · terms, name by name."""
    for name, term in terms.items():
        sums[name].add_(term.detach(), alpha=factor)


def zeros(weights: Weights) -> Weights:
    """Sums of no terms yet."""
    return {name: torch.zeros_like(weight) for name, weight in weights.items()}
