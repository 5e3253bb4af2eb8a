"""Local pruning: in every step some weights, drawn at random, keep their value; the layers are pruned after.

A weight that the loss needs comes back from any one step that it missed, so training leans on no single
weight. Child-Tuning (Xu et al. 2021, arXiv 2109.05687) draws its masks on gradients like this,
but scales what is left by 1 / (1 - p), which is not done here. The pruning is the usual one:

    for inputs, targets in batches:
        ...  # the gradients
        frozen_step_(optimizer, weights, probability=0.3)
    prune_(model, sparsity=0.9, scope="layer")
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def frozen_step_(
    optimizer: torch.optim.Optimizer,
    weights: Iterable[Tensor],
    probability: float,
    generator: torch.Generator | None = None,
) -> None:
    """One ``optimizer.step()`` after which each weight is, with `probability`, to the bit what it was before.

    Neither momentum nor weight decay moves a weight while it is frozen; the optimizer's own state goes on
    from its gradient as if it were not. weights: parameters of any shapes, each element is drawn for itself;
    parameters that are not named always move. generator: draws on its own device; None is torch's default.
    A probability of 0 is the plain step and draws nothing. ValueError for a probability outside [0, 1], or
    for a weight that the optimizer does not hold.
    """
    weights = list(weights)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1], got {probability!r}")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if strangers := [tuple(weight.shape) for weight in weights if id(weight) not in held]:
        raise ValueError(
            f"weights must be parameters of the optimizer, got others of shapes {strangers}: of a masked "
            "layer the parameter is parametrizations.weight.original"
        )
    if probability == 0:
        optimizer.step()
        return
    before = [weight.clone() for weight in weights]
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        device = weight.device if generator is None else generator.device
        drawn = torch.rand(weight.shape, generator=generator, device=device) < probability
        weight.copy_(torch.where(drawn.to(weight.device), old, weight))
