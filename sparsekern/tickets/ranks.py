"""One search in several processes, as torchrun starts them: who writes, and how all agree.

Every rank trains the same network on its share of each batch. Rank 0 alone evaluates, as running statistics
of batch normalisation differ among ranks. Files are its business too, so the ranks need no common disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

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


def shared(make: Callable[[], Value]) -> Value:
    """What `make` gives on rank 0, the only one that calls it, on every rank.

    What it raises there is a RuntimeError on the others, so that nobody waits for a rank that has ended.
    """
    if world() == 1:
        return make()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except Exception as error:
            dist.broadcast_object_list([None, repr(error)], src=0)
            raise
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise RuntimeError(f"rank 0: {box[1]}")
    value: Value = box[0]
    return value


def agreed(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks of rank 0, on every rank; ValueError on all if their hashes then differ."""
    return masks if world() == 1 else broadcast_masks(masks)
