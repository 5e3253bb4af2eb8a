"""Squared magnitude: ranks single weights as `magnitude` does, but blocks by their L2 norm.

The L2 norm of a structure is what torch.nn.utils.prune.ln_structured ranks with n = 2; He et al. 2018
(arXiv 1808.06866) rank filters so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekern.prune.criteria.context import Context


def score(weight: Tensor, context: Context) -> Tensor:
    """weight² in float32, of the weight's shape. The mean over a block is its mean square."""
    return weight.detach().to(torch.float32).square()
