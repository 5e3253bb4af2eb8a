"""The CPU backend: ``sparsekern::cpu_linear``, defined here and implemented in csrc/op_linear.cpp.

The op has no gradient of its own; ``sparsekern::linear`` (ops/linear.py) has.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsekern import _core
from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import PackedWeight

_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "cpu_linear(Tensor x, Tensor values, Tensor? bias, Tensor crow, Tensor col, Tensor index, int n, int k, "
    "int kernel) -> Tensor"
)


def _use_torch() -> None:
    """Hands libtorch's C functions to the extension, which implements the op with them."""
    name = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
    torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
    missing = [function for function in _core.TORCH_FUNCTIONS if not hasattr(torch_cpu, function)]
    if missing:
        raise ImportError(
            f"torch {torch.__version__} lacks {', '.join(missing)}; expected torch 2.10 or newer"
        )
    _core.use_torch(
        {
            function: ctypes.cast(getattr(torch_cpu, function), ctypes.c_void_p).value
            for function in _core.TORCH_FUNCTIONS
        }
    )


_use_torch()
if forced := os.environ.get("SPARSEKERN_ISA"):
    _core.use_isa(forced)  # ValueError: unknown, or this machine lacks it


def _fake(x: Tensor, *packed: Any) -> Tensor:
    return PackedWeight(*packed[:-1]).empty_output(x)


torch.library.register_fake("sparsekern::cpu_linear", _fake, lib=_library)

_linear = torch.ops.sparsekern.cpu_linear.default


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


class _Vector:
    """Blocks (V, 1): csrc/cpu/linear_vector.inc.h reads the format as it is."""

    def pack(self, weight: BlockSparse) -> Tensor:
        return torch.empty(0, dtype=torch.int32, device=weight.col.device)

    def run(self, x: Tensor, weight: PackedWeight) -> Tensor:
        y: Tensor = _linear(x, *weight, _core.VECTOR)
        return y


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
        index = torch.empty(panels + 1, rows, dtype=torch.int64, device=weight.col.device)
        index[0] = weight.crow[:-1]
        index[1:] = index[0] + counts.cumsum(0)
        return index.int()

    def run(self, x: Tensor, weight: PackedWeight) -> Tensor:
        y: Tensor = _linear(x, *weight, _core.UNSTRUCTURED)
        return y


vector_linear = _Vector()
unstructured_linear = _Unstructured()
