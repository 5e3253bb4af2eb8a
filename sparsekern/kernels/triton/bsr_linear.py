"""``sparsekern::triton_linear`` and its gradients: block-sparse Linear on GPUs.

``y = act(x Wᵀ + b)`` for blocks (16|32|64|128, 16|32|64|128) in float16, bfloat16 and float32; sums are
float32. The gradient of the input is the same product over the transposed index, that of the values is
computed at stored blocks only. All of it is deterministic. The kernels are in ``bsr_kernels.py``; here are
launchers, ops and backend.
"""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sparsekern.formats import BlockSparse
from sparsekern.kernels.reference import rows_of
from sparsekern.kernels.select import ACTIVATIONS, PackedWeight
from sparsekern.kernels.triton import bsr_kernels
from sparsekern.kernels.triton.bsr_index import chunk_blocks, make_index, read_index
from sparsekern.kernels.triton.cache import choose
from sparsekern.kernels.triton.launch import Launch, Task

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs its kernels in Python, on CPU tensors: for tests without a GPU."""


# ---- launchers


class Matrix(NamedTuple):
    """A block-sparse matrix as the product reads it: ``wide`` outputs and ``deep`` terms of a block, ``n``
    outputs and ``k`` terms in all."""

    values: Tensor
    crow: Tensor
    col: Tensor
    slot: Tensor
    order: Tensor
    wide: int
    deep: int
    n: int
    k: int
    transposed: bool


def matrix_of(weight: PackedWeight, transposed: bool = False) -> Matrix:
    """``weight``, or its transpose over the same values."""
    values, _, crow, col, index, n, k = weight
    out, inner = values.shape[1:]
    views = read_index(index, crow.numel() - 1, -(-k // inner), col.numel())
    if transposed:
        return Matrix(values, views.t_crow, views.t_col, views.t_slot, views.t_order, inner, out, k, n, True)
    return Matrix(values, crow, col, col, views.order, out, inner, n, k, False)


def product(
    x: Tensor, matrix: Matrix, bias: Tensor | None, activation: int, launch: Launch | None = None
) -> Tensor:
    """``act(x @ matrixᵀ + bias)``: x (m, k) with adjoining elements in its rows, to (m, n), contiguous."""
    m, n = x.shape[0], matrix.n
    y = x.new_empty(m, n)
    if m == 0 or n == 0:
        return y
    if launch is None:
        kind = "linear_input" if matrix.transposed else "linear"
        launch = choose(task_of(kind, x, matrix.wide, matrix.deep, (m, n, matrix.k), matrix.col.numel()))
    meta = {
        "WIDE": matrix.wide,
        "DEEP": matrix.deep,
        "ROWS": launch.rows,
        "STEP": launch.step,
        "STAGES": launch.stages,
        "TRANSPOSED": matrix.transposed,
        "HAS_BIAS": bias is not None,
        "ACTIVATION": activation,
        "PRECISION": precision("linear", x.dtype),
        "WIDEN": INTERPRETED,
        "num_warps": launch.warps,
    }
    _LAUNCHERS[launch.kernel](x, matrix, y, bias, launch, meta)
    return y


def _launch_tma(
    x: Tensor, matrix: Matrix, y: Tensor, bias: Tensor | None, launch: Launch, meta: dict[str, Any]
) -> None:
    values = matrix.values.view(-1, matrix.values.shape[2])
    step = min(launch.step, matrix.deep)
    box = [step, matrix.wide] if matrix.transposed else [matrix.wide, step]
    descriptors = (
        TensorDescriptor.from_tensor(x, [launch.rows, step]),
        TensorDescriptor.from_tensor(values, box),
        TensorDescriptor.from_tensor(y, [launch.rows, matrix.wide]),
    )
    grid = _grid(x, matrix, launch)
    bsr_kernels.product_tma[grid](
        *descriptors,
        bias,
        *_indices(matrix),
        *y.shape,
        matrix.k,
        matrix.order.numel(),
        matrix.slot.numel(),
        GROUP=launch.group,
        PERSISTENT=launch.persistent > 0,
        WEIGHTS_FIRST=launch.weights_first,
        **meta,
    )


def _launch_pointers(
    x: Tensor, matrix: Matrix, y: Tensor, bias: Tensor | None, launch: Launch, meta: dict[str, Any]
) -> None:
    bsr_kernels.product_pointers[_grid(x, matrix, launch)](
        x,
        matrix.values,
        y,
        bias,
        *_indices(matrix),
        *y.shape,
        matrix.k,
        matrix.order.numel(),
        x.stride(0),
        GROUP=launch.group,
        **meta,
    )


def _launch_few(
    x: Tensor, matrix: Matrix, y: Tensor, bias: Tensor | None, launch: Launch, meta: dict[str, Any]
) -> None:
    parts = y if launch.split == 1 else y.new_empty((launch.split, *y.shape), dtype=torch.float32)
    sizes = (*y.shape, matrix.k, x.stride(0))
    grid = (matrix.order.numel(), launch.split)
    bsr_kernels.product_few[grid](
        x, matrix.values, parts, bias, *_indices(matrix), *sizes, SPLIT=launch.split, **meta
    )
    if launch.split > 1:
        add_parts(parts, y, bias, meta["ACTIVATION"])


_LAUNCHERS = {"tma": _launch_tma, "pointers": _launch_pointers, "few": _launch_few}


def _indices(matrix: Matrix) -> tuple[Tensor, ...]:
    return matrix.crow, matrix.col, matrix.slot, matrix.order


def _grid(x: Tensor, matrix: Matrix, launch: Launch) -> tuple[int]:
    tiles = -(-x.shape[0] // launch.rows) * matrix.order.numel()
    programs = launch.persistent * gpu_of(x.device).multiprocessors
    return (min(tiles, programs) if programs else tiles,)


def add_parts(parts: Tensor, y: Tensor, bias: Tensor | None = None, activation: int = 0) -> None:
    """``y`` = act(the sum of ``parts`` (split, …y's shape) over its first dimension + bias)."""
    size = 1024
    bsr_kernels.finish[(triton.cdiv(y.numel(), size),)](
        parts,
        y,
        bias,
        y.numel(),
        y.shape[-1],
        SPLIT=parts.shape[0],
        SIZE=size,
        HAS_BIAS=bias is not None,
        ACTIVATION=activation,
    )


def values_gradient(grad: Tensor, x: Tensor, weight: PackedWeight, launch: Launch | None = None) -> Tensor:
    """The gradient of ``weight.values`` from ``grad`` (m, n) and ``x`` (m, k), whose rows are whole."""
    values, _, crow, col, index, n, k = weight
    out, inner = values.shape[1:]
    to = torch.empty_like(values)
    m, blocks = x.shape[0], col.numel()
    if blocks == 0:
        return to
    if launch is None:
        launch = choose(task_of("linear_values", x, out, inner, (m, n, k), blocks))
    views = read_index(index, crow.numel() - 1, -(-k // inner), blocks)
    chunks = (views.chunk_row, views.chunk_begin, views.chunk_end)
    parts = to if launch.split == 1 else to.new_empty((launch.split, *to.shape), dtype=torch.float32)
    bsr_kernels.values_gradient[(views.chunk_row.numel(), launch.split)](
        grad,
        x,
        parts,
        col,
        *chunks,
        *(m, n, k, blocks, grad.stride(0), x.stride(0)),
        OUT=out,
        IN=inner,
        CHUNK=chunk_blocks(inner),
        STEP=launch.step,
        STAGES=launch.stages,
        SPLIT=launch.split,
        PRECISION=precision("linear", x.dtype),
        WIDEN=INTERPRETED,
        num_warps=launch.warps,
    )
    if launch.split > 1:
        add_parts(parts, to)
    return to


def task_of(kind: str, x: Tensor, wide: int, deep: int, sizes: tuple[int, int, int], blocks: int) -> Task:
    """The Task of a product of ``x`` with a matrix; ``sizes`` are (m, n, k)."""
    item, n = x.element_size(), sizes[1]
    aligned = x.data_ptr() % 16 == 0 and x.stride(0) * item % 16 == 0 and n * item % 16 == 0 and blocks > 0
    return _task(kind, x.device, x.dtype, (wide, deep), (*sizes, blocks), aligned)


def _task(
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
    block: tuple[int, int],
    sizes: tuple[int, int, int, int],
    aligned: bool,
) -> Task:
    gpu = gpu_of(device)
    return Task(kind, gpu.name, gpu.arch, dtype_of(kind, dtype), *block, *sizes, gpu.multiprocessors, aligned)


class Gpu(NamedTuple):
    """What launches depend on."""

    name: str
    arch: str
    multiprocessors: int


@functools.lru_cache
def gpu_of(device: torch.device) -> Gpu:
    """The GPU; where Triton's interpreter runs on CPU tensors, a small one that it stands for."""
    if device.type != "cuda":
        return Gpu("interpreter", "sm_90", 4)
    found = torch.cuda.get_device_properties(device)
    return Gpu(found.name, f"sm_{found.major}{found.minor}", found.multi_processor_count)


def dtype_of(kind: str, dtype: torch.dtype) -> str:
    """A Task's dtype: "tf32" where torch may round the float32 of such a product to it."""
    cudnn: Any = torch.backends.cudnn  # whose conv mypy does not see
    of_torch = cudnn.conv if kind.startswith("conv2d") else torch.backends.cuda.matmul
    rounded = dtype is torch.float32 and of_torch.fp32_precision == "tf32"
    return "tf32" if rounded else str(dtype).removeprefix("torch.")


def precision(kind: str, dtype: torch.dtype) -> str:
    """Of a product's float32, as ``tl.dot`` names it."""
    return "ieee" if dtype_of(kind, dtype) == "float32" else "tf32"


# ---- ops


_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_PACKED = "Tensor values, Tensor? bias, Tensor crow, Tensor col, Tensor index, int n, int k"
for _schema in (
    f"triton_linear(Tensor x, {_PACKED}, int activation) -> Tensor",
    f"triton_linear_grad_input(Tensor grad, {_PACKED}) -> Tensor",
    f"triton_linear_grad_values(Tensor grad, Tensor x, {_PACKED}) -> Tensor",
):
    _library.define(_schema)  # type: ignore[no-untyped-call]


def _linear(x: Tensor, *packed: Any) -> Tensor:
    weight, activation = PackedWeight(*packed[:-1]), packed[-1]
    weight.check(x)
    y = product(_adjoining(rows_of(x)), matrix_of(weight), weight.bias, activation)
    return y.view(*x.shape[:-1], weight.n)


def _grad_input(grad: Tensor, *packed: Any) -> Tensor:
    weight = PackedWeight(*packed)
    to_x = product(_adjoining(rows_of(grad)), matrix_of(weight, transposed=True), None, 0)
    return to_x.view(*grad.shape[:-1], weight.k)


def _grad_values(grad: Tensor, x: Tensor, *packed: Any) -> Tensor:
    return values_gradient(_adjoining(rows_of(grad)), _adjoining(rows_of(x)), PackedWeight(*packed))


def _adjoining(x: Tensor) -> Tensor:
    """``x`` (m, k), copied unless the elements of its rows adjoin and its rows are apart."""
    return x if (x.stride(1) == 1 or x.shape[1] == 1) and x.stride(0) >= x.shape[1] else x.contiguous()


def _fake_linear(x: Tensor, *packed: Any) -> Tensor:
    return PackedWeight(*packed[:-1]).empty_output(x)


def _fake_grad_input(grad: Tensor, *packed: Any) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], packed[-1]))


def _fake_grad_values(grad: Tensor, x: Tensor, values: Tensor, *packed: Any) -> Tensor:
    return torch.empty_like(values)


for _name, _real, _fake in (
    ("triton_linear", _linear, _fake_linear),
    ("triton_linear_grad_input", _grad_input, _fake_grad_input),
    ("triton_linear_grad_values", _grad_values, _fake_grad_values),
):
    _library.impl(_name, _real, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"sparsekern::{_name}", _fake, lib=_library)


# ---- backend


class _Linear:
    """Blocks (16|32|64|128, 16|32|64|128)."""

    def pack(self, weight: BlockSparse) -> Tensor:
        """What ``bsr_index.py`` describes."""
        inner = weight.block[1]
        return make_index(weight.crow, weight.col, inner, -(-weight.shape[1] // inner))

    def run(self, x: Tensor, weight: PackedWeight, activation: str | None = None) -> Tensor:
        """Outside of the compiler the launcher is called as it is: an op in Python costs microseconds."""
        call = torch.ops.sparsekern.triton_linear.default if torch.compiler.is_compiling() else _linear
        y: Tensor = call(x, *weight, ACTIVATIONS.index(activation))
        return y

    def grad_input(self, grad: Tensor, weight: PackedWeight) -> Tensor:
        """The gradient (..., k) of x, from that of the output (..., n)."""
        to_x: Tensor = torch.ops.sparsekern.triton_linear_grad_input.default(grad, *weight)
        return to_x

    def grad_values(self, grad: Tensor, x: Tensor, weight: PackedWeight) -> Tensor:
        """The gradient of ``weight.values``, (nnz, out, in)."""
        to_values: Tensor = torch.ops.sparsekern.triton_linear_grad_values.default(grad, x, *weight)
        return to_values

    def variant(self, rows: int, weight: PackedWeight) -> str:
        """The Triton kernel that runs so many rows of x."""
        values, k = weight.values, weight.k
        aligned = k * values.element_size() % 16 == 0 and weight.n * values.element_size() % 16 == 0
        sizes = (rows, weight.n, k, weight.col.numel())
        block = (values.shape[1], values.shape[2])
        return choose(_task("linear", values.device, values.dtype, block, sizes, aligned)).kernel


linear = _Linear()
