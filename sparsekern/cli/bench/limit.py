"""How fast this machine can be at most: the share of the physical limit is printed for every product."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekern.cli.bench.cases import Case
from sparsekern.kernels import cpu, cpu_int8
from sparsekern.masks import expand, pool

INDEX_BYTES = 2
"""For each stored block: what the place of a block takes at least, whatever a kernel's index is like."""


TIMES_FMA = {"scalar": 1, "avx512_bf16": 2, "avx512_vnni": 4, "amx_bf16": 16, "amx_int8": 32}
"""Numbers that instructions multiply and add in a cycle at most, in units of float32 FMAs on 512 bits (Intel,
Optimization Reference Manual, chapters on AVX-512 and AMX)."""


@dataclass(frozen=True)
class Limit:
    """The least time (us) that `flops` at the FMA peak and `nbytes` at the bandwidth allow."""

    time_us: float
    flops: int
    nbytes: int


def limit(case: Case, weight: Tensor, peak_gflops: float, threads: int) -> Limit:
    """For the blocks of `weight` that hold a nonzero; `peak_gflops` is one thread's in float32.

    Of a convolution every position of the output counts, though at the edge some weights meet padding.
    Bytes: the stored weights, INDEX_BYTES a block, x and y, read at the rate at which one thread reads its
    share of them again and again. Several threads count as so many times one. bfloat16 counts at float32's
    peak; in blocks (..., 2) bfloat16, and int8 always, at that of the best instructions for them, TIMES_FMA.
    """
    alive = pool(weight != 0, case.block) > 0
    stored = int(expand(alive, weight.shape, case.block).sum())
    peak = peak_gflops * threads * TIMES_FMA[_instructions(case)]
    flops = 2 * stored * case.rows
    size = weight.element_size()
    nbytes = stored * (1 if case.dtype == "int8" else size) + case.moved * size
    nbytes += INDEX_BYTES * int(alive.sum())
    gbs = _read_gbs(-(-nbytes // threads)) * threads
    return Limit(max(flops / peak, nbytes / gbs) / 1e3, flops, nbytes)


def _instructions(case: Case) -> str:
    """The best of TIMES_FMA that this CPU has for the case."""
    if case.dtype == "int8":
        return cpu_int8.kernels()[0]
    pairs = case.dtype == "bfloat16" and case.block[1] == 2 and cpu.features()
    return pairs[0] if pairs else "scalar"


def _read_gbs(nbytes: int) -> float:
    return cpu.read_gbs(nbytes)
