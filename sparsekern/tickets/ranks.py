"""One search in several processes, as torchrun starts them: who writes, and how all agree.

Every rank trains the same network on its share of each batch, and evaluates all images itself. Files are the
business of rank 0, so the ranks need no common disk.
"""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from sparsekern.prune.distributed import broadcast_masks

Value = TypeVar("Value")


def world() -> int:
    """The number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if world() > 1 else 0


def shared(value: Value) -> Value:
    """What rank 0 has of `value`, on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def agreed(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks of rank 0, on every rank; ValueError on all if their hashes then differ."""
    return masks if world() == 1 else broadcast_masks(masks)
