"""Random: the control that every criterion must beat (Frankle & Carbin 2019, arXiv 1803.03635, figure 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekern.prune.criteria.context import Context


def score(weight: Tensor, context: Context) -> Tensor:
    """Uniform draws in [0, 1) from the context's generator, float32, of the weight's shape and on the CPU."""
    return torch.rand(weight.shape, generator=context.generator)
