"""What torch.nn.functional.conv1d and conv2d say of inputs that do not fit, in their words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sparsekern.kernels.select import ConvGeometry

_CPP_NAMES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.bfloat16: "c10::BFloat16",
    torch.float16: "c10::Half",
    torch.int64: "long int",
    torch.int32: "int",
}


def no_image(x: Tensor) -> RuntimeError:
    """Neither an image nor a batch of them."""
    return RuntimeError(
        f"Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: {_list(x.shape)}"
    )


def no_place(x: Tensor) -> RuntimeError:
    """An image without rows or without columns."""
    return RuntimeError(
        f"Only zero batch or zero channel inputs are supported, but got input shape: {_list(x.shape)}"
    )


def other_dtype(x: Tensor, values: Tensor, bias: Tensor | None) -> RuntimeError:
    """Another dtype than the weight."""
    # Without a bias torch has three wordings, by dtypes; this is what they have in common.
    theirs, ours = (_CPP_NAMES.get(dtype, str(dtype)) for dtype in (x.dtype, values.dtype))
    what = "weight" if bias is None else "bias"
    return RuntimeError(f"Input type ({theirs}) and {what} type ({ours}) should be the same")


def other_channels(g: ConvGeometry, x: Tensor) -> RuntimeError:
    """Another number of channels than the weight wants."""
    return RuntimeError(
        f"Given groups={g.groups}, weight of size {_list(g.weight_shape)}, expected input"
        f"{_list(x.shape)} to have {g.in_} channels, but got {x.shape[1]} channels instead"
    )


def no_line(x: Tensor) -> RuntimeError:
    """Neither a line nor a batch of them."""
    return RuntimeError(
        f"Expected 2D (unbatched) or 3D (batched) input to conv1d, but got input of size: {_list(x.shape)}"
    )


def other_channels_of_line(g: ConvGeometry, x: Tensor) -> RuntimeError:
    """The same for a line, with or without batch."""
    out, inner, _, taps = g.weight_shape
    shape = x.shape if x.dim() == 3 else (1, *x.shape)
    return RuntimeError(
        f"Given groups={g.groups}, weight of size {_list((out, inner, taps))}, expected input"
        f"{_list(shape)} to have {g.in_} channels, but got {shape[1]} channels instead"
    )


def too_short(g: ConvGeometry, length: int) -> RuntimeError:
    """A line shorter than the kernel."""
    return RuntimeError(
        f"Calculated padded input size per channel: ({g.padded_size(1, length)[1]}). "
        f"Kernel size: ({g.reach()[1]}). Kernel size can't be greater than actual input size"
    )


def other_bias(g: ConvGeometry, values: Tensor, bias: Tensor) -> RuntimeError:
    """A bias that is not the weight's."""
    return RuntimeError(
        f"Given weight of size {_list(g.weight_shape)}, expected bias to be {values.dtype}, "
        f"1-dimensional with {g.out} elements, but got {bias.dtype} of size {_list(bias.shape)}"
    )


def too_small(g: ConvGeometry, height: int, width: int) -> RuntimeError:
    """An image smaller than the kernel."""
    (high, wide), (rows, columns) = g.padded_size(height, width), g.reach()
    return RuntimeError(
        f"Calculated padded input size per channel: ({high} x {wide}). Kernel size: ({rows} x {columns}). "
        "Kernel size can't be greater than actual input size"
    )


def _list(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
