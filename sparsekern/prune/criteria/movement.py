"""Movement pruning: weights that training moves away from zero stay (Sanh et al. 2020, arXiv 2005.07683)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.learned import learned_scores
from sparsekern.prune.criteria.network import raw_weight
from sparsekern.prune.layers import pruned_layers


class Movement:
    """Adds up -w · dL/dw over the steps of a training run, for every weight of `pruned_layers`.

    ::

        movement = Movement(model)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            movement.observe()
            optimizer.step()
        prune_(model, 0.9, "movement", context=Context(learned=movement.scores))

    A dead weight gets no gradient, so its score stands still. The paper also multiplies by a learning rate,
    which changes no order while it is constant. `scores`: by parameter name, float32 of the weight's shape.
    ValueError for a weight that is neither a Parameter nor masked.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = {name: raw_weight(layer) for name, layer in pruned_layers(model).items()}
        self.scores = {
            name: torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
            for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def observe(self) -> None:
        """Count one step, after `backward` and before the optimizer's step; ValueError without gradients."""
        if all(weight.grad is None for weight in self._weights.values()):
            raise ValueError("no weight has a gradient: observe() is expected after loss.backward()")
        for name, weight in self._weights.items():
            if weight.grad is not None:
                self.scores[name] -= weight.grad * weight


def score(weight: Tensor, context: Context) -> Tensor:
    """What a `Movement` added up, signed: weights that moved towards zero have the lowest scores.

    ValueError if `context.learned` has no scores of this name and shape.
    """
    return learned_scores(weight, context, "movement", "the scores of a Movement that watched the training")
