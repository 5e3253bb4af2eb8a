"""What a criterion may look at besides the weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Context:
    """What the criteria of one pruning step share.

    Attributes:
        generator: draws for criteria that need chance; None is torch's default generator.
        model: the network whose weights are scored, with its masks on. It is never changed: criteria work on
            a copy without the masks, dead weights at zero.
        batches: ``(inputs, targets)`` for criteria that look at data, on the model's device.
        loss: ``loss(model(inputs), targets)``, a mean over the batch.
        learned: scores that training gave, by parameter name, for "movement" and "edge-popup".
        name: the parameter that is being scored, such as ``"fc1.weight"``.
        cache: what one criterion computed for all weights at once, kept for the next weight of the same step;
            every step of `prune_` and `next_masks` starts with an empty one.
    """

    generator: torch.Generator | None = None
    model: nn.Module | None = None
    batches: Sequence[Batch] = ()
    loss: Loss = torch.nn.functional.cross_entropy
    learned: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    name: str = ""
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def of(self, name: str) -> Context:
        """The same for the parameter of that name; the cache is shared."""
        return replace(self, name=name)
