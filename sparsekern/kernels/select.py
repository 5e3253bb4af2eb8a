"""Choosing a kernel: a pure function of the Problem, so that it can be tested on any machine."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from sparsekern.formats import BlockSparse

ACTIVATIONS = (None, "relu", "gelu")
"""What a product may apply to its outputs: numbered as csrc/cpu/kernels.h numbers them."""


@dataclass(frozen=True)
class Problem:
    """What a kernel is asked to do; no tensor in it.

    Attributes:
        op: ``"linear"``.
        device: ``"cpu"`` or ``"cuda"``.
        arch: the ISA in use on a CPU (``"avx512"``), the compute capability on a GPU (``"sm_90"``).
        dtype: of activations and values, ``"float32"``.
        block: ``(out, in)``.
        m, n, k: rows of the input, outputs, inputs.
        density: share of the blocks that is stored.
        features: what a CPU has beyond its ISA: ``("amx_bf16", "avx512_bf16")``.
    """

    op: str
    device: str
    arch: str
    dtype: str
    block: tuple[int, int]
    m: int
    n: int
    k: int
    density: float
    features: tuple[str, ...] = ()


class PackedWeight(NamedTuple):
    """The tensors of a weight as a backend's ``run`` takes them, in the order of the ops' arguments.

    ``plan_index`` is what the backend's ``pack`` made. A tuple, since one is made in every call.
    """

    values: Tensor
    bias: Tensor | None
    crow: Tensor
    col: Tensor
    plan_index: Tensor
    n: int
    k: int

    def check(self, x: Tensor) -> None:
        """ValueError if ``x`` cannot be multiplied by this weight, or the bias does not belong to it."""
        values, bias, n, k = self.values, self.bias, self.n, self.k
        if x.dim() == 0 or x.shape[-1] != k:
            raise ValueError(
                f"x: expected (..., {k}) for a weight of shape ({n}, {k}), got {_tuple(x.shape)}"
            )
        if x.dtype != values.dtype:
            raise ValueError(f"x is {x.dtype}, the weight {values.dtype}; expected one dtype")
        if bias is not None and (bias.dtype != values.dtype or bias.shape != (n,)):
            raise ValueError(f"bias: expected {values.dtype} ({n},), got {bias.dtype} {_tuple(bias.shape)}")

    def empty_output(self, x: Tensor) -> Tensor:
        """What ``run`` returns for ``x``, unwritten: for tracing."""
        self.check(x)
        return x.new_empty((*x.shape[:-1], self.n))


def _tuple(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


class Backend(Protocol):
    """What a kernel's ``load`` leads to."""

    def pack(self, weight: BlockSparse) -> Tensor:
        """The kernel's own index over the weight's blocks, int32, possibly empty. Where it holds a copy of
        the values, the kernel sees to it that the copy is that of the values it is given."""

    def run(self, x: Tensor, weight: PackedWeight, activation: str | None = None) -> Tensor:
        """``x`` (..., k) times the weight's transpose, plus bias, then one of ACTIVATIONS: (..., n),
        contiguous."""

    def grad_input(self, grad: Tensor, weight: PackedWeight) -> Tensor:
        """The gradient (..., k) of ``x``, from that of the output, (..., n)."""

    def grad_values(self, grad: Tensor, x: Tensor, weight: PackedWeight) -> Tensor:
        """The gradient of ``weight.values``, of its shape."""

    def variant(self, rows: int, weight: PackedWeight) -> str:
        """What runs for so many rows of x, in a word."""


@dataclass(frozen=True)
class Kernel:
    """A line of the table.

    Attributes:
        name: as ``explain`` prints it.
        op: which op it serves.
        load: ``"module:attribute"`` of its Backend, imported on first use.
        refuse: None if the kernel takes the problem, else the reason in words.
    """

    name: str
    op: str
    load: str
    refuse: Callable[[Problem], str | None]

    def backend(self) -> Backend:
        """The kernel's implementation. ImportError, in words, where its backend is not installed."""
        found = _BACKENDS.get(self.load)
        if found is None:
            module, _, attribute = self.load.partition(":")
            found = _BACKENDS[self.load] = cast(Backend, getattr(importlib.import_module(module), attribute))
        return found


_BACKENDS: dict[str, Backend] = {}  # what is loaded; a plain dict, since torch.compile looks through it


@dataclass(frozen=True)
class Choice:
    """The kernel that runs, and why those before it in the table do not: (name, reason) pairs."""

    kernel: Kernel
    refusals: tuple[tuple[str, str], ...]


def select(problem: Problem, kernels: Sequence[Kernel]) -> Choice:
    """The first kernel of the table that does not refuse.

    Raises:
        ValueError: no kernel of the table serves this op.
    """
    refusals: list[tuple[str, str]] = []
    for kernel in kernels:
        if kernel.op != problem.op:
            continue
        reason = kernel.refuse(problem)
        if reason is None:
            return Choice(kernel, tuple(refusals))
        refusals.append((kernel.name, reason))
    raise ValueError(f"no kernel for {problem}: {refusals or f'op {problem.op!r} is unknown'}")


@dataclass(frozen=True)
class Plan:
    """A weight made ready for one kernel: immutable, made once, when a layer is swapped or moved."""

    kernel: Kernel
    index: Tensor
    refusals: tuple[tuple[str, str], ...] = ()


def make_plan(weight: BlockSparse, choice: Choice) -> Plan:
    """Packs ``weight`` for the chosen kernel."""
    with torch.inference_mode(False):  # autograd saves the index, and refuses tensors of that mode
        return Plan(choice.kernel, choice.kernel.backend().pack(weight), choice.refusals)
