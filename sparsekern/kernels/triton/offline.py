"""Compiles what the launchers would launch to machine code, on a machine without a GPU.

The launchers themselves run, on tensors that nobody reads. Before Triton compiles what they ask for, it hands
over all that it made of their arguments. So nothing of a kernel's arguments is written here a second time.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.errors import TritonError
from triton.runtime.driver import driver

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import ACTIVATIONS, ConvGeometry, PackedConv, PackedWeight
from sparsekern.kernels.triton import bsr_conv2d, bsr_linear
from sparsekern.kernels.triton.launch import SHARED, Launch, Task, default

VERSION: str = triton.__version__

MULTIPROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148}
"""Of the A100, H100 and B200: the architectures that can be compiled for."""

SIDE = 32  # of the maps that convolutions write, in positions
TAPS = 9  # of their kernels, which are 3 x 3


class Case(NamedTuple):
    """A product to compile: of m rows with a weight (n, k), of which an eighth of the blocks is stored.

    ``kind`` is that of a Task. Of a convolution, ``m`` counts positions of its output, ``k`` is its input
    channels times ``TAPS``, and ``stride`` that of its kernel.
    """

    kind: str
    block: tuple[int, int]
    dtype: str = "bfloat16"
    m: int = 4096
    n: int = 4096
    k: int = 4096
    activation: str | None = None
    stride: int = 1

    def task(self, arch: str) -> Task:
        """The Task on ``arch``; ValueError for an architecture that is not in ``MULTIPROCESSORS``."""
        if arch not in MULTIPROCESSORS:
            raise ValueError(f"expected one of {', '.join(MULTIPROCESSORS)}, got {arch!r}")
        (wide, deep), n, k = self.block, self.n, self.k
        taps = TAPS if self.kind.startswith("conv2d") else 1
        bits = torch.finfo(getattr(torch, self.dtype)).bits
        aligned = all(size * bits % 128 == 0 for size in (n, k // taps)) and self.stride == 1
        blocks = self.block_rows * self.row_blocks
        if self.kind.endswith("_input"):
            wide, deep, n, k = deep, wide, k // taps, n * taps
        sizes = (self.m, n, k, blocks)
        return Task(self.kind, arch, arch, self.dtype, wide, deep, *sizes, MULTIPROCESSORS[arch], aligned)

    @property
    def block_rows(self) -> int:
        """Rows of blocks of the weight."""
        return -(-self.n // self.block[0])

    @property
    def row_blocks(self) -> int:
        """Stored blocks in each of them."""
        return -(-self.k // self.block[1]) // 8


CASES = (
    # GELU takes more registers than anything else that a product ends with.
    Case("linear", (128, 64), activation="gelu"),
    Case("linear", (64, 64), activation="gelu"),
    Case("linear", (64, 16), activation="gelu"),
    Case("linear", (32, 32), activation="gelu"),
    Case("linear", (16, 16), activation="gelu"),
    Case("linear", (64, 64), "float16"),
    Case("linear", (64, 64), "float32"),
    Case("linear", (64, 64), n=4090, k=4090),  # rows that no tensor descriptor takes
    Case("linear", (64, 64), m=8, activation="gelu"),
    Case("linear", (16, 16), m=8),
    Case("linear_input", (64, 64)),
    Case("linear_input", (64, 16)),
    Case("linear_values", (64, 64)),
    Case("linear_values", (64, 16)),
    Case("conv2d", (64, 64), n=512, k=512 * TAPS, activation="relu"),
    Case("conv2d", (64, 64), n=512, k=512 * TAPS, activation="relu", stride=2),
    Case("conv2d_input", (64, 64), n=512, k=512 * TAPS),
    Case("conv2d_values", (64, 64), n=512, k=512 * TAPS),
)


# ---- from a case to its launcher's call


def _linear(case: Case, launch: Launch | None) -> None:
    weight = _weight(case)
    matrix = bsr_linear.matrix_of(weight)
    bsr_linear.product(_empty(case, case.m, case.k), matrix, weight.bias, _activation(case), launch)


def _linear_input(case: Case, launch: Launch | None) -> None:
    matrix = bsr_linear.matrix_of(_weight(case), transposed=True)
    bsr_linear.product(_empty(case, case.m, case.n), matrix, None, 0, launch)


def _linear_values(case: Case, launch: Launch | None) -> None:
    grad, x = _empty(case, case.m, case.n), _empty(case, case.m, case.k)
    bsr_linear.values_gradient(grad, x, _weight(case), launch)


def _conv2d(case: Case, launch: Launch | None) -> None:
    x, y, weight = _convolution(case)
    bsr_conv2d.convolve(x, weight, y, _activation(case), launch)


def _conv2d_input(case: Case, launch: Launch | None) -> None:
    x, y, weight = _convolution(case)
    bsr_conv2d.input_gradient(y, weight, x, launch)


def _conv2d_values(case: Case, launch: Launch | None) -> None:
    x, y, weight = _convolution(case)
    bsr_conv2d.values_gradient(y, x, weight, launch)


CALLS: dict[str, Callable[[Case, Launch | None], None]] = {
    "linear": _linear,
    "linear_input": _linear_input,
    "linear_values": _linear_values,
    "conv2d": _conv2d,
    "conv2d_input": _conv2d_input,
    "conv2d_values": _conv2d_values,
}
"""By kind, who calls the launcher; it chooses how to launch where that is None."""


def _activation(case: Case) -> int:
    return ACTIVATIONS.index(case.activation)


def _weight(case: Case) -> PackedWeight:
    matrix = _matrix(case)
    bias, index = _empty(case, case.n), bsr_linear.linear.pack(matrix)
    return PackedWeight(matrix.values, bias, matrix.crow, matrix.col, index, case.n, case.k)


def _convolution(case: Case) -> tuple[Tensor, Tensor, PackedConv]:
    """x and y of ``SIDE`` x ``SIDE`` positions, channels last, and the weight."""
    matrix, channels, images, wide = _matrix(case), case.k // TAPS, case.m // SIDE**2, SIDE * case.stride
    geometry = ConvGeometry(case.n, channels, 3, 3, case.stride, case.stride, 1, 1, 1, 1, 1, 1, 1)
    bias, index = _empty(case, case.n), bsr_conv2d.conv2d.pack(matrix, geometry)
    weight = PackedConv(matrix.values, bias, matrix.crow, matrix.col, index, geometry)
    x, y = _empty(case, images, wide, wide, channels), _empty(case, images, SIDE, SIDE, case.n)
    return x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), weight


def _matrix(case: Case) -> BlockSparse:
    """The first blocks of each row; no number of theirs is ever read."""
    crow = torch.arange(case.block_rows + 1, dtype=torch.int32) * case.row_blocks
    col = torch.arange(case.row_blocks, dtype=torch.int32).repeat(case.block_rows)
    values = _empty(case, col.numel(), *case.block)
    return BlockSparse((case.n, case.k), case.block, crow, col, values)


def _empty(case: Case, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, case.dtype))


# ---- from the launcher's call to machine code


@dataclass(frozen=True)
class Compiled:
    """One kernel in machine code.

    Attributes:
        kernel: its name.
        arch: what it was compiled for.
        shared_bytes: shared memory of a program.
        registers, stack_bytes: of a thread. What does not fit into registers is spilled to the stack.
        instructions: how often each of ``INSTRUCTIONS`` stands in the code; "all" counts every instruction.
        unknown: why registers, stack_bytes and the count of all instructions are missing.
    """

    kernel: str
    arch: str
    shared_bytes: int
    instructions: dict[str, int]
    registers: int | None = None
    stack_bytes: int | None = None
    unknown: str | None = None

    def faults(self) -> list[str]:
        """What no kernel that is fast, or runs at all, may have; in words."""
        found, limit = [], SHARED[self.arch] * 1024
        if self.stack_bytes:
            found.append(f"spills {self.stack_bytes} bytes of a thread's registers")
        if self.shared_bytes > limit:
            found.append(f"takes {self.shared_bytes} bytes of shared memory, {self.arch} has {limit}")
        return found


def compile_offline(case: Case, arch: str, launch: Launch | None = None) -> list[Compiled]:
    """All kernels that a call launches, compiled for ``arch``, in the order of their launches.

    ``launch`` is the default of the case's Task where it is None.

    Raises:
        ValueError: Triton's interpreter is on, or ``arch`` is not in ``MULTIPROCESSORS``.
        RuntimeError: a kernel cannot be compiled.
    """
    if bsr_linear.INTERPRETED:
        raise ValueError("TRITON_INTERPRET=1 has Triton run kernels in Python: unset it to compile them")
    launch = launch or default(case.task(arch))
    asked: list[dict[str, Any]] = []

    def keep(**call: Any) -> bool:
        asked.append(call)
        return True  # which has Triton neither compile nor launch

    with _gpu_for(arch):
        with triton.knobs.runtime.scope():
            triton.knobs.runtime.jit_cache_hook = keep
            CALLS[case.kind](case, launch)
        return [_read(_compile(call), arch) for call in asked]


def _compile(call: dict[str, Any]) -> Any:
    kernel = call["fn"].jit_function
    try:
        return kernel.preload(call["compile"]["specialization_data"])
    except TritonError as error:
        reason: BaseException = error
        while reason.__cause__ is not None:  # the outer ones say through which calls it came
            reason = reason.__cause__
        raise RuntimeError(f"{kernel.__name__} does not compile: {reason}") from error


class _NoGpu:
    """All that Triton asks of a driver before it launches."""

    def __init__(self, arch: str) -> None:
        self.capability = int(arch.removeprefix("sm_"))

    def get_current_device(self) -> object:
        return self  # Triton keeps what it compiled by device, and would launch it when it is asked again

    def get_current_stream(self, device: object) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


@contextlib.contextmanager
def _gpu_for(arch: str) -> Iterator[None]:
    before = driver._active  # its public getter would look for a GPU
    driver.set_active(_NoGpu(arch))
    try:
        yield
    finally:
        driver.set_active(before)


# ---- what is in the machine code


INSTRUCTIONS = {
    "wgmma": r"\bwgmma\.mma_async\b",
    "mma.sync": r"\bmma\.sync\b",
    "tcgen05.mma": r"\btcgen05\.mma\b",
    "cp.async": r"\bcp\.async\.c[ag]\b",
    "tma": r"\bcp\.async\.bulk\.tensor\b",
}
"""Matrix and copy instructions, as PTX writes them (PTX ISA, "Instruction Set", from sm_80 to sm_100)."""

INSTRUCTION_BYTES = 16  # of machine code, from Volta on


def _read(kernel: Any, arch: str) -> Compiled:
    counts = {name: len(re.findall(pattern, kernel.asm["ptx"])) for name, pattern in INSTRUCTIONS.items()}
    known = kernel.metadata.name, arch, kernel.metadata.shared
    try:
        usage = _dump(kernel.asm["cubin"])
    except (OSError, subprocess.CalledProcessError) as error:
        return Compiled(*known, counts, unknown=f"cuobjdump, which comes with Triton, does not run: {error}")
    registers, stack = (int(_find(rf"\b{name}:(\d+)", usage)) for name in ("REG", "STACK"))
    code = int(_find(r"^\s*\w+\s+\w+\s+(\w+)\s.*\s\.text\.", usage), 16)
    return Compiled(*known, counts | {"all": code // INSTRUCTION_BYTES}, registers, stack)


def _dump(cubin: bytes) -> str:
    """What cuobjdump says of resources and sections."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", "-elf", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise ValueError(f"cuobjdump: expected a line with {pattern!r}, got {text[:200]!r}")
    return str(found[1])
