"""The CPU backend: thin calls into ``sparsekern._core``. Addresses and sizes go in; every check was made
before."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from sparsekern import _core
from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import PackedWeight


def _use_torch_threads() -> None:
    """Hands libtorch's parallel-for to the extension, so that torch's own pool does the work."""
    name = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
    torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))

    def address(symbol: str) -> int:
        return ctypes.cast(getattr(torch_cpu, symbol), ctypes.c_void_p).value or 0

    _core.use_thread_pool(address("torch_parallel_for"), address("torch_get_num_threads"))


_use_torch_threads()


def isa() -> str:
    """The instruction set in use: "avx512", "avx2", "neon" or "scalar"."""
    return _core.isa()


def isas(supported_only: bool = True) -> tuple[str, ...]:
    """Instruction sets of this build, best first; by default only those that this machine can run."""
    return _core.isas(supported_only)


@contextlib.contextmanager
def using_isa(name: str) -> Iterator[None]:
    """Runs the block on another instruction set, for the whole process. For tests and benchmarks.

    Raises:
        ValueError: unknown, or this machine lacks it.
    """
    before = _core.isa()
    _core.use_isa(name)
    try:
        yield
    finally:
        _core.use_isa(before)


def fma_peak_gflops(isa: str | None = None) -> float:
    """What one thread can do at most, in GFLOP/s, measured now: the best of 20 runs of independent FMAs."""
    return _core.fma_peak_gflops(isa or "")


def _run(call: Callable[..., None], x: Tensor, weight: PackedWeight) -> Tensor:
    if x.stride(-1) != 1 and x.shape[1] > 1:
        x = x.contiguous()
    m, n = x.shape[0], weight.n
    y = torch.empty((m, n), dtype=torch.float32)
    bias = weight.bias
    call(
        x.data_ptr(),
        x.stride(0),
        weight.values.data_ptr(),
        weight.crow.data_ptr(),
        weight.col.data_ptr(),
        weight.plan_index.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        m,
        n,
        weight.k,
        weight.values.shape[1],
    )
    return y


class _Vector:
    """Blocks (V, 1): csrc/cpu/linear_vector.inc.h reads the format as it is."""

    def pack(self, weight: BlockSparse) -> Tensor:
        return torch.empty(0, dtype=torch.int32)

    def run(self, x: Tensor, weight: PackedWeight) -> Tensor:
        return _run(_core.vector_linear, x, weight)


class _Unstructured:
    """Single weights: csrc/cpu/linear_unstructured.inc.h also wants to know where rows enter panels of
    columns."""

    def pack(self, weight: BlockSparse) -> Tensor:
        """int32 (ceil(k / 64) + 1, block rows): first block of each row at or behind each panel's first
        column."""
        rows = weight.crow.numel() - 1
        panels = -(-weight.shape[1] // _core.PANEL_COLUMNS)
        place = (weight.col.long() // _core.PANEL_COLUMNS) * rows + weight.block_row()
        counts = torch.bincount(place, minlength=panels * rows).view(panels, rows)
        index = torch.empty(panels + 1, rows, dtype=torch.int64)
        index[0] = weight.crow[:-1]
        index[1:] = index[0] + counts.cumsum(0)
        return index.int()

    def run(self, x: Tensor, weight: PackedWeight) -> Tensor:
        return _run(_core.unstructured_linear, x, weight)


vector_linear = _Vector()
unstructured_linear = _Unstructured()
