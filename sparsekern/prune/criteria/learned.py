"""Scores that training gave, handed over by `Context.learned`."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekern.prune.criteria.context import Context


def learned_scores(weight: Tensor, context: Context, criterion: str, expected: str) -> Tensor:
    """The scores of `context.name` in float32; ValueError if there are none of the weight's shape."""
    scores = context.learned.get(context.name)
    if scores is None or scores.shape != weight.shape:
        found = f"{list(context.learned)}" if scores is None else f"scores of {tuple(scores.shape)}"
        raise ValueError(
            f"{criterion} ranks what training learned: Context(learned=...) with {expected} is expected, of "
            f"shape {tuple(weight.shape)} for {context.name!r}, got {found}"
        )
    return scores.detach().to(torch.float32)
