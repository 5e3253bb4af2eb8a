"""``sparsekern::triton_conv2d`` and its gradients: block-sparse convolutions on GPUs.

``y = act(conv(x) + b + residual)`` for blocks (16|32|64|128, 16|32|64|128) of filters by channels at one
place of the kernel, in float16, bfloat16 and float32. Images are read channels last; others are converted,
which costs a copy of x and one of y. A convolution of single pixels without stride and padding is a product,
and computed as one. The kernels are in ``conv_kernels.py``; here are launchers, ops and backend.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import ACTIVATIONS, ConvGeometry, PackedConv, PackedWeight, memory_format_of
from sparsekern.kernels.triton import bsr_linear, conv_kernels
from sparsekern.kernels.triton.bsr_index import Index, chunk_blocks, make_index, read_index
from sparsekern.kernels.triton.bsr_linear import INTERPRETED, add_parts, precision, task_of
from sparsekern.kernels.triton.cache import choose
from sparsekern.kernels.triton.launch import Launch

# ---- launchers


def convolve(
    x: Tensor, weight: PackedConv, residual: Tensor | None, activation: int, launch: Launch | None = None
) -> Tensor:
    """``act(conv(x) + bias + residual)``; x and residual lie channels last, and so does what is returned."""
    g = weight.geometry
    if is_product(g) and residual is None:
        y = bsr_linear.product(_pixels(x), _as_product(weight), weight.bias, activation, launch)
        return y.view(x.shape[0], *x.shape[2:], g.out).permute(0, 3, 1, 2)
    y = _empty(x, (x.shape[0], g.out, *g.output_size(*x.shape[2:])))
    wide, deep = weight.values.shape[1:]
    views = _views(weight)
    lists = (weight.crow, weight.col, weight.col, views.order)
    _launch((x, y, weight.bias, residual), weight, lists, (wide, deep, False), (activation, launch))
    return y


def input_gradient(grad: Tensor, weight: PackedConv, like: Tensor, launch: Launch | None = None) -> Tensor:
    """The gradient of the input, which is as large as ``like``; ``grad`` and what is returned lie channels
    last."""
    if is_product(weight.geometry):
        to_x = bsr_linear.product(_pixels(grad), _as_product(weight, transposed=True), None, 0, launch)
        return to_x.view(like.shape[0], *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2)
    to_x = _empty(like, tuple(like.shape))
    deep, wide = weight.values.shape[1:]
    views = _views(weight)
    lists = (views.t_crow, views.t_col, views.t_slot, views.t_order)
    _launch((grad, to_x, None, None), weight, lists, (wide, deep, True), (0, launch))
    return to_x


def _launch(
    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    weight: PackedConv,
    lists: tuple[Tensor, ...],
    sides: tuple[int, int, bool],
    rest: tuple[int, Launch | None],
) -> None:
    """The product: from x to y, with bias and residual; over the lists of blocks; wide, deep, transposed."""
    x, y, bias, residual = tensors
    (wide, deep, transposed), (activation, launch) = sides, rest
    positions, n = y.shape[0] * y.shape[2] * y.shape[3], y.shape[1]
    if positions == 0 or n == 0:
        return
    g, order = weight.geometry, lists[-1]
    channels = x.shape[1] // g.groups
    if launch is None:
        kind = "conv2d_input" if transposed else "conv2d"
        task = task_of(
            kind, _pixels(x), wide, deep, (positions, n, channels * g.kh * g.kw), weight.col.numel()
        )
        launch = choose(task._replace(aligned=takes_boxes(x, weight, n) and task.blocks > 0))
    blocks = (n, order.numel(), order.numel() // g.groups, -(-channels // deep))
    meta = {
        "KW": g.kw,
        "WIDE": wide,
        "DEEP": deep,
        "STEP": launch.step,
        "GROUP": launch.group,
        "STAGES": launch.stages,
        "TRANSPOSED": transposed,
        "HAS_BIAS": bias is not None,
        "HAS_RESIDUAL": residual is not None,
        "ACTIVATION": activation,
        "PRECISION": precision("conv2d", x.dtype),
        "WIDEN": INTERPRETED,
        "num_warps": launch.warps,
    }
    if launch.kernel == "tma":
        _launch_tma(tensors, weight, lists, blocks, launch, meta)
        return
    conv_kernels.conv_product[(-(-positions // launch.rows) * order.numel(),)](
        x,
        weight.values,
        y,
        bias,
        residual,
        *lists,
        *(positions, *blocks, channels),
        *_sizes(x, y, g),
        ROWS=launch.rows,
        **meta,
    )


def _launch_tma(
    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    weight: PackedConv,
    lists: tuple[Tensor, ...],
    blocks: tuple[int, ...],
    launch: Launch,
    meta: dict[str, Any],
) -> None:
    x, y, bias, residual = tensors
    g, wide, step = weight.geometry, meta["WIDE"], launch.step
    box = box_of(launch.rows, y.shape[0], *y.shape[2:])
    tiles = [-(-size // side) for size, side in zip((y.shape[0], *y.shape[2:]), box, strict=True)]
    values = weight.values.view(-1, weight.values.shape[2])
    conv_kernels.conv_product_tma[(math.prod(tiles) * blocks[1],)](
        _descriptor(x, [*box, step]),
        TensorDescriptor.from_tensor(values, [step, wide] if meta["TRANSPOSED"] else [wide, step]),
        _descriptor(y, [*box, wide]),
        bias,
        None if residual is None else _descriptor(residual, [*box, wide]),
        *lists,
        *tiles,
        *blocks,
        *(g.pad_top, g.pad_left, g.dilation_h, g.dilation_w),
        BATCH=box[0],
        HIGH=box[1],
        ACROSS=box[2],
        WEIGHTS_FIRST=launch.weights_first,
        **meta,
    )


def _descriptor(images: Tensor, box: list[int]) -> TensorDescriptor:
    batch, channels, height, width = images.shape
    # Of a dimension of size 1, torch's stride may be anything.
    strides = [height * width * channels, width * channels, channels, 1]
    return TensorDescriptor(images, [batch, height, width, channels], strides, box)


def takes_boxes(x: Tensor, weight: PackedConv, n: int) -> bool:
    """Whether tensor descriptors can read x and write n channels: a tap shifts a box of positions as a whole,
    and every pixel begins at a multiple of 16 bytes."""
    g, item = weight.geometry, x.element_size()
    whole = all(channels * item % 16 == 0 for channels in (n, x.shape[1]))
    return whole and x.data_ptr() % 16 == 0 and (g.stride_h, g.stride_w) == (1, 1)


@functools.lru_cache(maxsize=1024)
def box_of(rows: int, batch: int, height: int, width: int) -> tuple[int, int, int]:
    """(images, lines, columns), powers of two whose product is ``rows``, that cover all positions with the
    least waste; of equals the widest, then the highest."""
    sides = [1 << i for i in range(rows.bit_length())]
    boxes = [(rows // (h * w), h, w) for w in sides for h in sides if h * w <= rows]

    def covered(box: tuple[int, int, int]) -> int:
        return math.prod(
            -(-size // side) * side for size, side in zip((batch, height, width), box, strict=True)
        )

    return min(boxes, key=lambda box: (covered(box), -box[2], -box[1]))


def values_gradient(grad: Tensor, x: Tensor, weight: PackedConv, launch: Launch | None = None) -> Tensor:
    """The gradient of ``weight.values``; ``grad`` and ``x`` lie channels last."""
    values, _, _, col, index, g = weight
    if is_product(g):
        packed = PackedWeight(values, None, weight.crow, col, index, g.out, g.in_)
        return bsr_linear.values_gradient(_pixels(grad), _pixels(x), packed, launch)
    out, inner = values.shape[1:]
    to, blocks = torch.empty_like(values), col.numel()
    positions, n = grad.shape[0] * grad.shape[2] * grad.shape[3], grad.shape[1]
    if blocks == 0:
        return to
    if launch is None:
        k = g.matrix_shape[1]
        launch = choose(task_of("conv2d_values", _pixels(x), out, inner, (positions, n, k), blocks))
    views = _views(weight)
    chunks = (views.chunk_row, views.chunk_begin, views.chunk_end)
    parts = to if launch.split == 1 else to.new_empty((launch.split, *to.shape), dtype=torch.float32)
    conv_kernels.conv_values_gradient[(views.chunk_row.numel(), launch.split)](
        grad,
        x,
        parts,
        col,
        *chunks,
        *(positions, n, blocks, views.order.numel() // g.groups, g.in_ // g.groups // inner),
        *_sizes(x, grad, g),
        KW=g.kw,
        OUT=out,
        IN=inner,
        CHUNK=chunk_blocks(inner),
        STEP=launch.step,
        STAGES=launch.stages,
        SPLIT=launch.split,
        PRECISION=precision("conv2d", x.dtype),
        WIDEN=INTERPRETED,
        num_warps=launch.warps,
    )
    if launch.split > 1:
        add_parts(parts, to)
    return to


def is_product(g: ConvGeometry) -> bool:
    """Whether each output sees one pixel of its own, so that the convolution is a product of matrices."""
    return (g.kh, g.kw, g.stride_h, g.stride_w, g.groups) == (1,) * 5 and not any(g[6:10])


def _as_product(weight: PackedConv, transposed: bool = False) -> bsr_linear.Matrix:
    g = weight.geometry
    packed = PackedWeight(
        weight.values, weight.bias, weight.crow, weight.col, weight.plan_index, g.out, g.in_
    )
    return bsr_linear.matrix_of(packed, transposed)


def _views(weight: PackedConv) -> Index:
    channels = weight.geometry.in_ // weight.values.shape[2]
    return read_index(weight.plan_index, weight.crow.numel() - 1, channels, weight.col.numel())


def _sizes(x: Tensor, y: Tensor, g: ConvGeometry) -> tuple[int, ...]:
    strides = (x.stride(0), x.stride(2), x.stride(3))
    steps = (g.stride_h, g.stride_w, g.pad_top, g.pad_left, g.dilation_h, g.dilation_w)
    return *y.shape[2:], *x.shape[2:], *strides, *steps


def _pixels(x: Tensor) -> Tensor:
    """(positions, channels) of images that lie channels last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _channels_last(x: Tensor) -> Tensor:
    # Not torch's question, which a map of one pixel or one channel answers with yes however it lies.
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _empty(like: Tensor, size: tuple[int, ...]) -> Tensor:
    batch, channels, height, width = size
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


# ---- ops


_library = torch.library.Library("sparsekern", "FRAGMENT")  # type: ignore[no-untyped-call]
_PACKED = "Tensor values, Tensor crow, Tensor col, Tensor index, int[] geometry"
for _schema in (
    f"triton_conv2d(Tensor x, Tensor? bias, Tensor? residual, {_PACKED}, int activation) -> Tensor",
    f"triton_conv2d_grad_input(Tensor grad, Tensor x, {_PACKED}) -> Tensor",
    f"triton_conv2d_grad_values(Tensor grad, Tensor x, {_PACKED}) -> Tensor",
):
    _library.define(_schema)  # type: ignore[no-untyped-call]


def _weight(values: Tensor, *rest: Any, bias: Tensor | None = None) -> PackedConv:
    crow, col, index, geometry = rest
    return PackedConv(values, bias, crow, col, index, ConvGeometry(*geometry))


def _conv2d(x: Tensor, bias: Tensor | None, residual: Tensor | None, *packed: Any) -> Tensor:
    weight, activation = _weight(*packed[:-1], bias=bias), packed[-1]
    weight.check(x, residual)
    wanted = memory_format_of(x)
    after = None if residual is None else _channels_last(residual)
    y = convolve(_channels_last(x), weight, after, activation)
    return y.contiguous(memory_format=wanted)


def _grad_input(grad: Tensor, x: Tensor, *packed: Any) -> Tensor:
    to_x = input_gradient(_channels_last(grad), _weight(*packed), x)
    return to_x.contiguous(memory_format=memory_format_of(x))


def _grad_values(grad: Tensor, x: Tensor, *packed: Any) -> Tensor:
    return values_gradient(_channels_last(grad), _channels_last(x), _weight(*packed))


def _fake_conv2d(x: Tensor, bias: Tensor | None, residual: Tensor | None, *packed: Any) -> Tensor:
    return _weight(*packed[:-1], bias=bias).empty_output(x, residual)


def _fake_grad_input(grad: Tensor, x: Tensor, *packed: Any) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format_of(x))


def _fake_grad_values(grad: Tensor, x: Tensor, values: Tensor, *packed: Any) -> Tensor:
    return torch.empty_like(values)


for _name, _real, _fake in (
    ("triton_conv2d", _conv2d, _fake_conv2d),
    ("triton_conv2d_grad_input", _grad_input, _fake_grad_input),
    ("triton_conv2d_grad_values", _grad_values, _fake_grad_values),
):
    _library.impl(_name, _real, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"sparsekern::{_name}", _fake, lib=_library)


# ---- backend


class _Conv2d:
    """Blocks (16|32|64|128, 16|32|64|128), filters by channels at one place of the kernel."""

    def pack(self, weight: BlockSparse, geometry: ConvGeometry) -> Tensor:
        """What ``bsr_index.py`` describes."""
        g, inner = geometry, weight.block[1]
        depth_blocks = max(1, g.in_ // g.groups // inner)
        return make_index(weight.crow, weight.col, inner, depth_blocks, g.kh * g.kw, g.groups)

    def run(
        self,
        x: Tensor,
        weight: PackedConv,
        activation: str | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Outside of the compiler the launcher is called as it is: an op in Python costs microseconds."""
        values, bias, crow, col, index, geometry = weight
        call = torch.ops.sparsekern.triton_conv2d.default if torch.compiler.is_compiling() else _conv2d
        number = ACTIVATIONS.index(activation)
        y: Tensor = call(x, bias, residual, values, crow, col, index, geometry, number)
        return y

    def gradients(
        self, grad: Tensor, x: Tensor, weight: PackedConv, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of ``x`` and of ``weight.values``, each if it is wanted."""
        values, _, crow, col, index, geometry = weight
        packed, ops = (values, crow, col, index, geometry), torch.ops.sparsekern
        to_x = ops.triton_conv2d_grad_input.default(grad, x, *packed) if wanted[0] else None
        return to_x, ops.triton_conv2d_grad_values.default(grad, x, *packed) if wanted[1] else None

    def variant(self, weight: PackedConv) -> str:
        """How it is computed on images of the usual kind."""
        g = weight.geometry
        if is_product(g):
            return "product"
        return "tma" if (g.stride_h, g.stride_w) == (1, 1) else "pointers"


conv2d = _Conv2d()
