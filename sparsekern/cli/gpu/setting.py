"""What all parts share: the device, its clock, and the time they have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from sparsekern.bench.cuda import Call, Clock, CudaClock, HostClock, interleave_cuda
from sparsekern.bench.machine import usable_cpus

Entry = dict[str, Any]
"""What a part found, one thing at a time: plain data. An "error" in it is one of ours, in words."""

TINY = "SPARSEKERN_BENCH_TINY"
MOST_WORKERS = 16  # more threads than that only wait for Python's lock


@dataclass(frozen=True)
class Setting:
    """Where a part runs, until when, of `perf_counter`, and where files go. `tiny`: on small shapes, whose
    times mean nothing."""

    device: torch.device
    clock: Clock
    until: float
    out: Path
    tiny: bool = False

    @property
    def left_s(self) -> float:
        """Seconds until the part should end; below 0 when it should have."""
        return self.until - perf_counter()

    @property
    def workers(self) -> int:
        """Threads that Triton may compile in; its interpreter takes one."""
        return min(usable_cpus(), MOST_WORKERS) if self.device.type == "cuda" else 1

    def medians_us(self, calls: Mapping[str, Call], budget_s: float, graphs: bool = True) -> dict[str, float]:
        """Quick times, with a cold cache, for what is chosen by them."""
        timed = partial(interleave_cuda, rounds=10, budget_s=budget_s, cold=True, clock=self.clock)
        times, _ = timed(calls, eager=() if graphs else calls)
        return {name: timing.median_us for name, timing in times.items()}


def raised() -> tuple[type[Exception], ...]:
    """What may come of calls that nobody has made on this device before: it ends them, and nothing else."""
    from sparsekern.kernels.triton import tune

    others = (TypeError, AttributeError, NameError, ArithmeticError, ImportError, MemoryError)
    return (*tune.errors(), *others)


def in_words(error: BaseException) -> str:
    """An error in a line."""
    first = (str(error).strip().splitlines() or ["?"])[0]
    return f"{type(error).__name__}: {first[:200]}"


def make_setting(budget_s: float, out: Path) -> Setting:
    """On the current CUDA device; where there is none and the environment asks for tiny shapes, on the CPU,
    in Triton's interpreter. ValueError where there is none and it does not."""
    until, tiny = perf_counter() + budget_s, os.environ.get(TINY) == "1"
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        return Setting(device, CudaClock(device), until, out, tiny)
    if not tiny:
        why = "torch sees no CUDA device" if torch.version.cuda else "this torch was built without CUDA"
        raise ValueError(f"no GPU: {why}; with --tiny every part runs on small shapes, on the CPU")
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is loaded, which is when a kernel of it is
    return Setting(torch.device("cpu"), HostClock(), until, out, tiny)
