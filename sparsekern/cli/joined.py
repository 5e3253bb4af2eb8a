"""One of the processes that torchrun started, or the only one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Inside, the ranks that torchrun started are joined; gives the device of this one.

    Several ranks on "cuda" have a GPU each, by their number on their machine. Without torchrun, nothing is
    joined.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # collectives of objects go through it
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device
    finally:
        dist.destroy_process_group()
