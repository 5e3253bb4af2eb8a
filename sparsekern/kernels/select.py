"""Choosing a kernel: a pure function of the Problem, so that it can be tested on any machine."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels import torch_words

ACTIVATIONS = (None, "relu", "gelu")
"""What a product may apply to its outputs: numbered as csrc/cpu/kernels.h numbers them."""


@dataclass(frozen=True)
class Problem:
    """What a kernel is asked to do; no tensor in it.

    Attributes:
        op: ``"linear"`` or ``"conv2d"``.
        device: ``"cpu"`` or ``"cuda"``.
        arch: the ISA in use on a CPU (``"avx512"``), the compute capability on a GPU (``"sm_90"``).
        dtype: of activations and values, ``"float32"``.
        block: ``(out, in)``.
        m, n, k: rows of the input, outputs, inputs. Of a convolution: positions of its output in all images,
            channels of its output, and weights of one of them.
        density: share of the blocks that is stored.
        features: what a CPU has beyond its ISA: ``("amx_bf16", "avx512_bf16")``.
        groups, taps: of a convolution; taps is the size of its kernel, kh * kw.
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
    groups: int = 1
    taps: int = 1


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


class ConvGeometry(NamedTuple):
    """A convolution but for its weights, in the order of the ops' arguments. ``in_`` counts the input's
    channels, in all ``groups``; ``pad_*`` are zeros around the input."""

    out: int
    in_: int
    kh: int
    kw: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_left: int
    pad_bottom: int
    pad_right: int
    dilation_h: int
    dilation_w: int
    groups: int

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """``(out, in_ / groups, kh, kw)``, as ``nn.Conv2d`` has it."""
        return self.out, self.in_ // self.groups, self.kh, self.kw

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """``(out, k)``: the weight with the rows of its filters laid out in a line."""
        return self.out, self.in_ // self.groups * self.kh * self.kw

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Of an input with its zeros around it."""
        return height + self.pad_top + self.pad_bottom, width + self.pad_left + self.pad_right

    def reach(self) -> tuple[int, int]:
        """Rows and columns that one output sees: those of the kernel with its gaps."""
        return self.dilation_h * (self.kh - 1) + 1, self.dilation_w * (self.kw - 1) + 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Of an input ``(height, width)``; below 1 where the kernel is larger than the padded input."""
        (high, wide), (rows, columns) = self.padded_size(height, width), self.reach()
        return (high - rows) // self.stride_h + 1, (wide - columns) // self.stride_w + 1


class PackedConv(NamedTuple):
    """The same as :class:`PackedWeight` for a convolution, whose weight (out, in_ / groups, kh, kw) is kept
    as a matrix (out, k)."""

    values: Tensor
    bias: Tensor | None
    crow: Tensor
    col: Tensor
    plan_index: Tensor
    geometry: ConvGeometry

    def check(self, x: Tensor, residual: Tensor | None = None) -> None:
        """RuntimeError, as ``torch.nn.functional.conv2d`` raises it, if ``x`` (batch, in_, height, width)
        does not fit, or bias and residual do not belong to it."""
        values, bias, _, _, _, g = self
        out, in_, kh, kw, stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w, _ = g
        if x.dim() != 4:
            raise torch_words.no_image(x)
        batch, channels, height, width = x.shape
        if channels != in_:
            raise torch_words.other_channels(g, x)
        if x.dtype != values.dtype:
            raise torch_words.other_dtype(x, values, bias)
        if bias is not None and (bias.dtype != values.dtype or bias.shape != (out,)):
            raise torch_words.other_bias(g, values, bias)
        if stride_h < 1 or stride_w < 1 or dilation_h < 1 or dilation_w < 1 or min(g[6:10]) < 0:
            raise RuntimeError(f"expected strides and dilations from 1 and padding from 0, got {g}")
        # The same as output_size, which costs more than all of this by its calls.
        high = (height + top + bottom - dilation_h * (kh - 1) - 1) // stride_h + 1
        wide = (width + left + right - dilation_w * (kw - 1) - 1) // stride_w + 1
        if high < 1 or wide < 1:
            raise torch_words.too_small(g, height, width)
        if height == 0 or width == 0:
            raise torch_words.no_place(x)
        if residual is not None and (
            residual.dtype != values.dtype or residual.shape != (batch, out, high, wide)
        ):
            raise RuntimeError(
                f"residual: expected {values.dtype} {_tuple((batch, out, high, wide))}, the output's, "
                f"got {residual.dtype} {_tuple(residual.shape)}"
            )

    def check_line(self, x: Tensor, residual: Tensor | None = None) -> None:
        """The same of shapes, as ``torch.nn.functional.conv1d`` raises it, for ``x`` (batch, in_, length) or
        (in_, length), which a kernel (1, kw) takes as a map of one row."""
        g = self.geometry
        if x.dim() not in (2, 3):
            raise torch_words.no_line(x)
        if x.shape[-2] != g.in_:
            raise torch_words.other_channels_of_line(g, x)
        length = g.output_size(1, x.shape[-1])[1]
        if length < 1:
            raise torch_words.too_short(g, x.shape[-1])
        if residual is not None and residual.shape != (*x.shape[:-2], g.out, length):
            raise RuntimeError(
                f"residual: expected {_tuple((*x.shape[:-2], g.out, length))}, the output's shape, "
                f"got {_tuple(residual.shape)}"
            )

    def empty_output(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """What ``run`` returns for ``x``, unwritten: for tracing."""
        self.check(x, residual)
        size = (x.shape[0], self.geometry.out, *self.geometry.output_size(x.shape[2], x.shape[3]))
        return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


def memory_format_of(x: Tensor) -> torch.memory_format:
    """How ``x`` (batch, channels, height, width) lies, by its strides as torch reads them
    (c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4): channels last, or as by default."""
    strides, least = x.stride(), 0
    if strides[1] == 0 or strides[1] > strides[3]:
        return torch.contiguous_format
    for d in (1, 3, 2, 0):
        if x.shape[d] == 0 or strides[d] < least or (d == 0 and least == strides[1]):
            return torch.contiguous_format
        least = strides[d] * max(x.shape[d], 1)
    return torch.channels_last


def _tuple(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


class Backend(Protocol):
    """What the ``load`` of a kernel for ``linear`` leads to."""

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


class ConvBackend(Protocol):
    """What the ``load`` of a kernel for ``conv2d`` leads to."""

    def pack(self, weight: BlockSparse, geometry: ConvGeometry) -> Tensor:
        """As :meth:`Backend.pack`."""

    def run(
        self,
        x: Tensor,
        weight: PackedConv,
        activation: str | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """``x`` (batch, in_, height, width) convolved with the weight, plus bias, plus ``residual``, which is
        of the output's shape, then one of ACTIVATIONS; it lies as ``memory_format_of(x)`` says."""

    def gradients(
        self, grad: Tensor, x: Tensor, weight: PackedConv, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of ``x`` and of ``weight.values``, each if it is ``wanted``, from that of the
        output."""

    def variant(self, weight: PackedConv) -> str:
        """What runs, in a word."""


@dataclass(frozen=True)
class Kernel:
    """A line of the table.

    Attributes:
        name: as ``explain`` prints it.
        op: which op it serves.
        load: ``"module:attribute"`` of its Backend or ConvBackend, imported on first use.
        refuse: None if the kernel takes the problem, else the reason in words.
    """

    name: str
    op: str
    load: str
    refuse: Callable[[Problem], str | None]

    def backend(self) -> Backend:
        """The kernel's implementation. ImportError, in words, where its backend is not installed."""
        found: Backend = self._loaded()
        return found

    def conv_backend(self) -> ConvBackend:
        """The same of a kernel whose op is ``conv2d``."""
        found: ConvBackend = self._loaded()
        return found

    def _loaded(self) -> Any:
        found = _BACKENDS.get(self.load)
        if found is None:
            module, _, attribute = self.load.partition(":")
            found = _BACKENDS[self.load] = getattr(importlib.import_module(module), attribute)
        return found


_BACKENDS: dict[str, Any] = {}  # what is loaded; a plain dict, since torch.compile looks through it


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


def make_plan(weight: BlockSparse, choice: Choice, geometry: ConvGeometry | None = None) -> Plan:
    """Packs ``weight`` for the chosen kernel; ``geometry`` where that is one for ``conv2d``."""
    kernel = choice.kernel
    with torch.inference_mode(False):  # autograd saves the index, and refuses tensors of that mode
        if geometry is None:
            index = kernel.backend().pack(weight)
        else:
            index = kernel.conv_backend().pack(weight, geometry)
    return Plan(kernel, index, choice.refusals)
