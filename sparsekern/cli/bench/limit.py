"""How fast this machine can be at most: the share of the physical limit is printed for every product."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekern.cli.bench.cases import Case
from sparsekern.kernels import cpu
from sparsekern.masks import expand, pool

INDEX_BYTES = 2
"""For each stored block: what the place of a block takes at least, whatever a kernel's index is like."""


@dataclass(frozen=True)
class Limit:
    """The least time (us) that `flops` at the FMA peak and `nbytes` at the bandwidth allow."""

    time_us: float
    flops: int
    nbytes: int


def limit(case: Case, weight: Tensor, peak_gflops: float, threads: int) -> Limit:
    """For the blocks of `weight` (n, k) that hold a nonzero; `peak_gflops` is one thread's in float32.

    Bytes: the stored weights, INDEX_BYTES a block, x and y, read at the rate at which one thread reads its
    share of them again and again. Several threads count as so many times one. bfloat16 counts at float32's
    peak; in blocks (..., 2) at twice that, as one instruction then multiplies pairs.
    """
    alive = pool(weight != 0, case.block) > 0
    stored = int(expand(alive, weight.shape, case.block).sum())
    pairs = case.dtype == "bfloat16" and case.block[1] == 2
    peak = peak_gflops * threads * (2 if pairs else 1)
    flops = 2 * stored * case.m
    numbers = stored + case.m * (case.k + case.n)
    nbytes = numbers * weight.element_size() + INDEX_BYTES * int(alive.sum())
    gbs = _read_gbs(-(-nbytes // threads)) * threads
    return Limit(max(flops / peak, nbytes / gbs) / 1e3, flops, nbytes)


def _read_gbs(nbytes: int) -> float:
    return cpu.read_gbs(nbytes)
