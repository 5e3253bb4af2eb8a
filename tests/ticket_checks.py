"""What the tests of tickets compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekern import zoo


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are alike, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lenet(seed: int = 0) -> nn.Module:
    """LeNet-300-100, drawn by a seed."""
    return zoo.model("lenet300", torch.Generator().manual_seed(seed))
