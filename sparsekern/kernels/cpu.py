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

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import ACTIVATIONS, PackedWeight
from sparsekern.kernels.transposed import pays, transposed

try:
    from sparsekern import _core as _core  # the other backends take it from here, with these words
except ImportError as error:
    raise ImportError(
        f"kernels on the CPU are in sparsekern._core, which does not load here ({error}); "
        "expected an installed wheel, or `pip install .` with a C++ compiler"
    ) from error

_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "cpu_linear(Tensor x, Tensor values, Tensor? bias, Tensor crow, Tensor col, Tensor index, int n, int k, "
    "int kernel, int activation) -> Tensor"
)
_library.define(  # type: ignore[no-untyped-call]
    "cpu_linear_grad_input(Tensor grad, Tensor values, Tensor crow, Tensor col, Tensor index, int n, int k) "
    "-> Tensor"
)
_library.define(  # type: ignore[no-untyped-call]
    "cpu_linear_grad_input_single(Tensor grad, Tensor values, Tensor crow, Tensor col, Tensor index, int n, "
    "int k) -> Tensor"
)
_library.define(  # type: ignore[no-untyped-call]
    "cpu_linear_grad_values(Tensor grad, Tensor x, Tensor values, Tensor crow, Tensor col, Tensor index, "
    "int n, int k) -> Tensor"
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
    return PackedWeight(*packed[:-2]).empty_output(x)


def _fake_grad_input(grad: Tensor, *packed: Any) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], packed[-1]))


def _fake_grad_values(grad: Tensor, x: Tensor, values: Tensor, *packed: Any) -> Tensor:
    return torch.empty_like(values)


torch.library.register_fake("sparsekern::cpu_linear", _fake, lib=_library)
torch.library.register_fake("sparsekern::cpu_linear_grad_input", _fake_grad_input, lib=_library)
torch.library.register_fake("sparsekern::cpu_linear_grad_input_single", _fake_grad_input, lib=_library)
torch.library.register_fake("sparsekern::cpu_linear_grad_values", _fake_grad_values, lib=_library)

_linear = torch.ops.sparsekern.cpu_linear.default
_grad_input = torch.ops.sparsekern.cpu_linear_grad_input.default
_grad_input_single = torch.ops.sparsekern.cpu_linear_grad_input_single.default
_grad_values = torch.ops.sparsekern.cpu_linear_grad_values.default


def _index_of(crow: Tensor, col: Tensor, n: int, k: int, high: int) -> Tensor:
    words = _core.panel_index(crow.numpy(), col.numpy(), n, k, high)
    return torch.from_numpy(words).clone()  # numpy's memory is not aligned to cache lines


def _by_transposed(
    grad: Tensor, values: Tensor, crow: Tensor, col: Tensor, index: Tensor, n: int, k: int
) -> Tensor:
    fits = grad.dim() > 0 and grad.shape[-1] == n and grad.dtype == values.dtype
    if not fits or not pays(grad.numel() // max(n, 1), values):  # it also says what does not fit
        y: Tensor = _grad_input(grad, values, crow, col, index, n, k)
        return y
    way = transposed(crow, col, index, n, k, _index_of)
    there = values.detach().flatten().index_select(0, way.order).view(-1, 1, 1)
    y = _linear(grad, there, None, way.crow, way.col, way.own_index, k, n, _core.CHOOSE_KERNEL, 0)
    return y


_library.impl("cpu_linear_grad_input_single", _by_transposed, "CPU")  # type: ignore[no-untyped-call]


def isa() -> str:
    """The instruction set in use: "avx512", "avx2", "neon" or "scalar"."""
    return _core.isa()


def isas(supported_only: bool = True) -> tuple[str, ...]:
    """Instruction sets of this build, best first; by default only those that this machine can run."""
    return _core.isas(supported_only)


def features() -> tuple[str, ...]:
    """What this CPU has beyond the instruction set in use, by the names of the kernels that need it:
    "amx_bf16", "avx512_bf16"."""
    return _core.pair_kernels()


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


def read_gbs(nbytes: int) -> float:
    """What one thread reads at most from wherever a buffer of ``nbytes`` stays, in GB/s, measured now."""
    return _core.read_gbs(nbytes)


class _Linear:
    """Blocks (V, 1). Several kernels, one of which runs: ``csrc/cpu/choose_linear.inc.h`` says which for how
    many rows; ``kernel`` forces one."""

    def __init__(self, kernel: str | None = None) -> None:
        self.kernel = kernel
        self._id = _core.CHOOSE_KERNEL if kernel is None else _core.LINEAR_KERNELS.index(kernel)

    def pack(self, weight: BlockSparse) -> Tensor:
        """What ``csrc/cpu/panel_index.h`` describes; for tall blocks without dead columns nothing."""
        if weight.col.device.type != "cpu":
            return torch.empty(0, dtype=torch.int32, device=weight.col.device)
        return _index_of(weight.crow, weight.col, *weight.shape, weight.block[0])

    def run(self, x: Tensor, weight: PackedWeight, activation: str | None = None) -> Tensor:
        y: Tensor = _linear(x, *weight, self._id, ACTIVATIONS.index(activation))
        return y

    def grad_input(self, grad: Tensor, weight: PackedWeight) -> Tensor:
        """The gradient (..., k) of x, from that of the output (..., n)."""
        values, _, crow, col, index, n, k = weight
        op = _grad_input_single if values.shape[1] == 1 else _grad_input
        to_x: Tensor = op(grad, values, crow, col, index, n, k)
        return to_x

    def grad_values(self, grad: Tensor, x: Tensor, weight: PackedWeight) -> Tensor:
        """The gradient of ``weight.values``, (nnz, V, 1); nothing else of the weight's is computed."""
        values, _, crow, col, index, n, k = weight
        to_values: Tensor = _grad_values(grad, x, values, crow, col, index, n, k)
        return to_values

    def variant(self, rows: int, weight: PackedWeight) -> str:
        """The C++ kernel that runs so many rows of x."""
        return self.kernel or _core.choose_linear(rows, weight.n, weight.k, weight.values.shape[1])


linear = _Linear()
