"""Interleaved timing on a GPU by its own clock: calls are captured into CUDA graphs and replayed.

What is short on a GPU is shorter than its launch. A graph holds a call so often that a sample is long, and
its launches cost no more than they do in a captured network.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from math import ceil
from statistics import median
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor

from sparsekern.bench.timing import MIN_ROUNDS, Timing

Call = Callable[[], object]

MIN_SAMPLE_US = 200.0
MOST_COPIES, MOST_COLD_COPIES = 64, 16  # of a call in one graph; each cold one comes with a flush
FLUSHES = 8  # in the sample that tells what one costs
FLUSHED = 4  # times the L2
SHORTEST_US = 0.1  # what is left of a sample without its flushes is at least this


@dataclass(frozen=True)
class Recorded:
    """A call made ready for timing. graph: it is replayed. refusal: why it is not, though it was to be."""

    run: Call
    graph: bool
    refusal: str | None = None


class Clock(Protocol):
    """What `interleave_cuda` asks of a device."""

    def record(self, call: Call, graph: bool) -> Recorded:
        """The call made ready, after it ran once; as a graph if that is wanted and can be."""

    def time_us(self, recorded: Recorded) -> float:
        """Time that the device takes for one run, us."""

    def flush(self) -> None:
        """Drives everything out of the L2 cache; as any call, it is queued."""

    def now_s(self) -> float:
        """The host's time, s."""


def interleave_cuda(
    calls: Mapping[str, Call],
    *,
    rounds: int = 30,
    budget_s: float = 1.0,
    cold: bool = False,
    eager: Collection[str] = (),
    clock: Clock | None = None,
    seed: int = 0,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time every call against every other in one run, by the clock of the device that they are queued on.

    Each call is captured into a CUDA graph that holds it until it lasts 200 us; a sample is the time per call
    of one replay between two events. Rounds, their turning order and the budget are those of `interleave`.

    cold: before each call in the graph a buffer of four times the L2 cache is read. What that takes is
        measured in the same rounds, and its median is taken off. It is read and not written, or its lines
        would be written back at the expense of the call. Otherwise the call runs back to back with itself.
    eager: names that are launched one by one, as an uncaptured program does: their samples hold what the
        host needs for it.
    clock: that of the current CUDA device by default.

    Returns a `Timing` for each name, in the order of `calls`, and for each that could not be captured, and
    was timed as if it were eager, the reason. Before torch 2.12 a failed capture leaves the allocator's
    bookkeeping upset: `torch.cuda.empty_cache` fails from then on. Name as eager what is not known to be
    capturable. Raises ValueError for no calls or fewer than 5 rounds; what a call raises goes through.
    """
    if not calls:
        raise ValueError("nothing to time: calls is empty, expected at least one name -> callable")
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds is {rounds}, expected at least {MIN_ROUNDS}")
    clock = CudaClock() if clock is None else clock
    order = list(calls)
    random.Random(seed).shuffle(order)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    flushes: list[float] = []
    deadline = clock.now_s() + budget_s
    with _collector_at_rest():
        variants = {name: _prepare(call, name not in eager, cold, clock) for name, call in calls.items()}
        flush = clock.record(_repeated(clock.flush, FLUSHES), True) if cold else None
        for done in range(rounds):
            if done >= MIN_ROUNDS and clock.now_s() >= deadline:
                break
            for name in order:
                samples[name].append(_sample_us(variants[name], cold, clock))
            if flush is not None:
                flushes.append(clock.time_us(flush) / FLUSHES)
            order.reverse()
    flush_us = median(flushes) if flushes else 0.0
    times = {
        name: Timing(name, tuple(max(us - flush_us, SHORTEST_US) if cold else us for us in taken))
        for name, taken in samples.items()
    }
    refusals = {name: variant.once.refusal for name, variant in variants.items()}
    return times, {name: refusal for name, refusal in refusals.items() if refusal is not None}


@dataclass(frozen=True)
class _Variant:
    """A call by itself, and `copies` of it, with flushes between them where they are to be cold."""

    once: Recorded
    many: Recorded
    copies: int


def _prepare(call: Call, graph: bool, cold: bool, clock: Clock) -> _Variant:
    once = clock.record(call, graph)
    once_us = min(clock.time_us(once) for _ in range(3))
    most = MOST_COLD_COPIES if cold else MOST_COPIES
    copies = min(max(ceil(MIN_SAMPLE_US / max(once_us, SHORTEST_US)), 1), most)
    if copies == 1 and not cold:
        return _Variant(once, once, 1)
    many = clock.record(_repeated(call, copies, clock.flush if cold else None), once.graph)
    return _Variant(once, many, copies)


def _repeated(call: Call, copies: int, before: Call | None = None) -> Call:
    def run() -> None:
        for _ in repeat(None, copies):
            if before is not None:
                before()
            call()

    return run


def _sample_us(variant: _Variant, cold: bool, clock: Clock) -> float:
    if variant.many.graph:
        clock.flush()  # while it runs, the host queues what is timed: its own time stays out of the sample
    if not cold:
        variant.once.run()  # into the caches
    return clock.time_us(variant.many) / variant.copies


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class CudaClock:
    """The clock of a CUDA device: events around what is queued on the current stream."""

    def __init__(self, device: torch.device | None = None) -> None:
        """device: the current one by default."""
        self.device = torch.device("cuda", torch.cuda.current_device()) if device is None else device
        with torch.cuda.device(self.device):
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self.start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self.end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._pool, self._kept = torch.cuda.graph_pool_handle(), list[torch.cuda.CUDAGraph]()
        self._has_pool = False

    def record(self, call: Call, graph: bool) -> Recorded:
        """A RuntimeError of the capture becomes the refusal; of the call itself it goes through."""
        with torch.cuda.device(self.device):
            call()  # compiles, and allocates what it keeps
            torch.cuda.synchronize()
            if not graph:
                return Recorded(call, False)
            try:
                return Recorded(self._captured(call), True)
            except RuntimeError as error:
                self._pool, self._has_pool = torch.cuda.graph_pool_handle(), False
                return Recorded(call, False, f"no CUDA graph: {(str(error).splitlines() or ['?'])[0]}")

    def _captured(self, call: Call) -> Call:
        """Not with `torch.cuda.graph`, which empties the allocator's cache before every capture."""
        graph = torch.cuda.CUDAGraph()
        # The allocator goes on asking a graph whose capture failed; a pool lives as long as a graph of it.
        self._kept.append(graph)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            call()  # libraries have workspaces for each stream
            self.stream.synchronize()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                call()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self.stream)
        if self._has_pool:
            self._kept.pop()
        self._has_pool = True
        return graph.replay

    def time_us(self, recorded: Recorded) -> float:
        """An eager run starts on an idle device, as its host time is part of it."""
        with torch.cuda.device(self.device):
            if not recorded.graph:
                torch.cuda.synchronize()
            self.start.record()
            recorded.run()
            self.end.record()
            self.end.synchronize()
            return float(self.start.elapsed_time(self.end)) * 1e3

    def flush(self) -> None:
        """Reads four times the L2 cache."""
        torch.sum(self._lines)

    @cached_property
    def _lines(self) -> Tensor:
        l2_bytes = torch.cuda.get_device_properties(self.device).L2_cache_size
        return torch.rand(FLUSHED * l2_bytes // 4, device=self.device)

    def now_s(self) -> float:
        """The host's."""
        return perf_counter()


class HostClock:
    """What stands for a device where there is none: calls run on the host, one after another."""

    def record(self, call: Call, graph: bool) -> Recorded:
        """Nothing can be captured, and nothing need be."""
        call()
        return Recorded(call, graph)

    def time_us(self, recorded: Recorded) -> float:
        """By the host's clock."""
        start = perf_counter()
        recorded.run()
        return (perf_counter() - start) * 1e6

    def flush(self) -> None:
        """A host has no L2 worth speaking of here."""

    def now_s(self) -> float:
        """The host's."""
        return perf_counter()
