"""Magnitude: the absolute value of a weight (Han et al. 2015, arXiv 1506.02626)."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekern.prune.criteria.context import Context


def score(weight: Tensor, context: Context) -> Tensor:
    """|weight| in float32, of the weight's shape. The mean over a block is its L1 norm per element."""
    return weight.detach().abs().to(torch.float32)
