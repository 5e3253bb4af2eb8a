"""How a Triton kernel is launched: a pure function of the Task, tuned tables first, defaults else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

BLOCK_SIDES = (16, 32, 64, 128)
FEW = 32  # rows of x up to which weights lie on the wide side of the matrix instruction

SHARED = {"sm_80": 163, "sm_86": 99, "sm_87": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_103": 227}
SHARED_ELSEWHERE = 99
BARRIERS = 256
"""KiB of shared memory that one program may use (CUDA C++ programming guide, "Technical specifications"), and
bytes of it that the barriers of its copies take at most."""


class Task(NamedTuple):
    """One product, as far as its launch depends on it; no tensor in it.

    ``kind`` is "linear", its gradients "linear_input" and "linear_values", or the same of "conv2d". A product
    is ``(m, deep side) x (deep side, wide side)``: a stored block is ``wide`` outputs of the sum and ``deep``
    terms of it. ``n`` counts all outputs, ``k`` all terms, ``blocks`` the stored blocks. ``device`` is the
    GPU's name, ``aligned`` says whether tensor descriptors take the operands. ``dtype`` is "tf32" for float32
    that may be rounded to it; other float32 knows no matrix instruction.
    """

    kind: str
    device: str
    arch: str
    dtype: str
    wide: int
    deep: int
    m: int
    n: int
    k: int
    blocks: int
    multiprocessors: int
    aligned: bool = True

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 4 if self.dtype in ("float32", "tf32") else 2

    @property
    def block_rows(self) -> int:
        """Rows of blocks: tiles of outputs."""
        return -(-self.n // self.wide)

    @property
    def major(self) -> int:
        """Of the compute capability: 9 for sm_90."""
        return int(self.arch.removeprefix("sm_")) // 10


@dataclass(frozen=True)
class Launch:
    """One way to launch.

    Attributes:
        kernel: "tma" reads through tensor descriptors, "pointers" through addresses, "few" is for few rows.
        rows: of x in a tile.
        step: terms of the sum in a turn of the loop; more than a block is deep takes several blocks at once.
        warps, stages: of a program; stages is how many steps are loaded ahead.
        group: tiles of rows that are computed side by side, so that they share weights in L2.
        persistent: programs per multiprocessor, each of which goes on to its next tile; 0 starts one program
            for each tile.
        split: parts in which a sum is computed, by programs of their own.
        weights_first: whether a tile is computed as its transpose, with "tma".
    """

    kernel: str
    rows: int
    step: int
    warps: int
    stages: int
    group: int = 8
    persistent: int = 0
    split: int = 1
    weights_first: bool = False

    def shared_bytes(self, task: Task) -> int:
        """What the stages of the loop take of shared memory; with tensor descriptors the output too."""
        # The values' gradient takes blocks until they are 64 inputs wide.
        rows = max(64, task.deep) if self.kernel == "values" else self.rows
        loads = self.stages * self.step * (rows + task.wide) * task.itemsize + BARRIERS
        return loads + (self.rows * task.wide * task.itemsize if self.kernel == "tma" else 0)

    def refuse(self, task: Task) -> str | None:
        """None if the launch can serve the task, else the reason in words."""
        limit = SHARED.get(task.arch, SHARED_ELSEWHERE) * 1024
        if self.shared_bytes(task) > limit:
            return f"needs {self.shared_bytes(task)} bytes of shared memory, {task.arch} has {limit}"
        if self.kernel == "few" and task.kind.startswith("conv2d"):
            return "convolutions have no kernel for few rows"
        if self.kernel == "tma" and task.major < 9:
            return f"tensor descriptors need sm_90 or newer, got {task.arch}"
        if self.kernel == "tma" and not task.aligned:
            return (
                "tensor descriptors need rows that begin at multiples of 16 bytes, and images without stride"
            )
        if self.weights_first and (self.kernel != "tma" or task.wide < 64):
            return f"tiles are transposed with tensor descriptors and blocks from 64, got {task.wide}"
        if self.kernel == "tma" and task.kind.startswith("conv2d") and self.step > task.deep:
            return f"takes one block of channels a step, of {task.deep}, got {self.step}"
        if self.rows * task.wide > 256 * 128 // (1 if self.warps >= 8 else 2):
            return f"{self.rows} x {task.wide} sums do not fit in the registers of {self.warps} warps"
        return None


# ---- defaults: where nothing was tuned

# (least major version of the architecture, least wide side) -> (rows, warps, stages, persistent)
_TILES = {
    (8, 16): (128, 4, 4, 0),
    (8, 64): (128, 8, 3, 0),
    (8, 128): (128, 8, 3, 0),
    (9, 16): (128, 4, 4, 0),
    (9, 64): (128, 4, 3, 0),
    (9, 128): (128, 8, 3, 0),
    (10, 16): (128, 4, 4, 0),
    (10, 64): (128, 4, 3, 0),
    (10, 128): (128, 8, 3, 0),
}
STEP_BYTES = 128  # of a row of x in one step: a line of L2, and the widest swizzle of a tensor descriptor


def default(task: Task) -> Launch:
    """A launch for a task that nobody tuned: it fits the device, and is not claimed to be the fastest."""
    if task.kind.endswith("_values"):
        return _default_values(task)
    if task.m <= FEW and task.kind.startswith("linear"):
        return _default_few(task)
    if task.dtype == "float32":  # whose sums are made by as many registers as a tile has elements
        return Launch("pointers", 64, 32 if task.wide <= 64 else 16, 8, 3)
    if not task.aligned and task.kind.startswith("linear"):  # loaded through registers
        return Launch("pointers", 128, 32, 8, 3)
    rows, warps, stages, persistent = _TILES[
        max(key for key in _TILES if key <= (min(task.major, 10), task.wide))
    ]
    rows = min(rows, max(16, 1 << (task.m - 1).bit_length()))
    step = STEP_BYTES // task.itemsize
    # wgmma has 64 outputs on its first side, or 64 rows; tcgen05 has 128 lines, which blocks rarely fill.
    first = task.wide >= (64 if task.major == 9 else 128)
    tma_step = _tma_step(task, STEP_BYTES)
    ahead = 2 if tma_step > task.deep else 0  # stages that go to finding several blocks
    tma = Launch("tma", rows, tma_step, warps, stages + ahead, 8, persistent, weights_first=first)
    launch = tma if tma.refuse(task) is None else Launch("pointers", rows, step, warps, stages)
    return _with_fewer_stages(launch, task)


def _tma_step(task: Task, nbytes: int) -> int:
    step = nbytes // task.itemsize
    return min(step, task.deep) if task.kind.startswith("conv2d") else step


def _default_few(task: Task) -> Launch:
    rows = 16 if task.m <= 16 else 32
    step = max(32, min(256, 4096 // task.wide) * 2 // task.itemsize)
    terms = task.blocks * task.deep // task.block_rows  # of one output
    wanted = -(-4 * task.multiprocessors // task.block_rows)  # so that every multiprocessor has four programs
    split = min(wanted, max(1, terms // (2 * step)), 32)
    return _with_fewer_stages(Launch("few", rows, step, 4 if task.wide >= 64 else 2, 4, split=split), task)


def _default_values(task: Task) -> Launch:
    step = 64 * 2 // task.itemsize
    chunks = max(1, task.blocks * task.deep // 64)
    wanted = -(-4 * task.multiprocessors // chunks)
    split = max(1, min(wanted, task.m // (4 * step), 64))
    return _with_fewer_stages(Launch("values", 64, step, 8 if task.wide >= 128 else 4, 3, split=split), task)


def _with_fewer_stages(launch: Launch, task: Task) -> Launch:
    while launch.stages > 1 and launch.refuse(task) is not None:
        launch = replace(launch, stages=launch.stages - 1)
    return launch


# ---- what is worth timing


def candidates(task: Task) -> list[Launch]:
    """Launches worth timing for a task, the default first."""
    if task.kind.endswith("_values"):
        found = [
            Launch("values", 64, step, warps, stages, split=split)
            for step, warps, stages in itertools.product((32, 64, 128), (4, 8), (2, 3, 4))
            for split in _splits(default(task).split)
        ]
    elif task.m <= FEW:
        found = [
            Launch("few", 16 if task.m <= 16 else 32, step, warps, stages, split=split)
            for step, warps, stages in itertools.product((32, 64, 128, 256), (1, 2, 4), (3, 5))
            for split in _splits(default(task).split)
        ]
    else:
        rows = [r for r in (64, 128, 256) if r < 2 * task.m]
        shapes = list(itertools.product(rows, (4, 8), (2, 3, 4, 6)))
        found = [
            Launch("tma", r, _tma_step(task, nbytes), warps, stages, group, persistent, weights_first=first)
            for r, warps, stages in shapes
            for nbytes in (STEP_BYTES, 2 * STEP_BYTES)
            for first in ((False, True) if task.wide >= 64 else (False,))
            for group, persistent in ((4, 0), (16, 0), (8, 1), (8, 2))
        ]
        found += [Launch("pointers", r, step, w, s) for r, w, s in shapes for step in (32, 64) if r < 256]
    fitting = [launch for launch in dict.fromkeys([default(task), *found]) if launch.refuse(task) is None]
    return fitting


def _splits(split: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys((1, max(1, split // 2), split, 2 * split)))


# ---- tuned tables


Key = tuple[str, str, int, int, int, int, int, int]


def key_of(task: Task) -> Key:
    """What of a task a tuned entry is kept under."""
    return task.kind, task.dtype, task.wide, task.deep, task.m, task.n, task.k, task.blocks


SIMILAR = 3.0


def choose_from(task: Task, tuned: Mapping[Key, Launch]) -> Launch:
    """The launch tuned for the most similar task of one kind, dtype and block that fits; else the default.

    Similar is near in the logarithms, to base two, of density and, at half their weight, of rows, outputs and
    terms; what is ``SIMILAR`` away or more is not. Rows that fill a tile alike are alike.
    """
    near = [
        (_distance(key, task), launch)
        for key, launch in tuned.items()
        if key[:4] == key_of(task)[:4] and launch.refuse(task) is None and _serves(launch, task)
    ]
    distance, launch = min(near, key=lambda entry: entry[0], default=(math.inf, default(task)))
    return launch if distance < SIMILAR else default(task)


def _serves(launch: Launch, task: Task) -> bool:
    """Whether it has the kernel for so few, or so many, rows of x."""
    few = task.kind in ("linear", "linear_input") and task.m <= FEW
    return (launch.kernel == "few") == few and (not few or task.m <= launch.rows)


def _distance(key: Key, task: Task) -> float:
    m, n, k, blocks = key[4:]
    theirs = (max(m, 16), n, k, blocks / (n * k))
    ours = (max(task.m, 16), task.n, task.k, task.blocks / (task.n * task.k))
    octaves = [abs(math.log2(max(a, 1e-9) / max(b, 1e-9))) for a, b in zip(theirs, ours, strict=True)]
    return sum(octaves[:3]) / 2 + octaves[3]
