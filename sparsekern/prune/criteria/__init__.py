"""Criteria: `score(weight, context)` says how much each weight is worth; the lowest go first.

A criterion returns a float32 tensor of the weight's shape, not negative. A new one is one file and one line
in CRITERIA.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparsekern.prune.criteria import magnitude, random
from sparsekern.prune.criteria.context import Context

Criterion = Callable[[Tensor, Context], Tensor]

CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude.score,
    "random": random.score,
}

__all__ = ["CRITERIA", "Context", "Criterion"]
