"""RIVALS_CONV2D: who computes a 2-d convolution, dense or sparse. A new rival is one line there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekern.bench import DENSE_CONV2D, InLayout, interleave
from sparsekern.cli.bench.rivals import attempt, onnx_model, onnxruntime_call
from sparsekern.nn import SparseConv2d

Call = Callable[[Tensor], Tensor]
Prepare = Callable[[nn.Conv2d, Tensor, tuple[int, int]], "Call | str"]


def _dense(name: str, conv: nn.Conv2d, x: Tensor, block: tuple[int, int]) -> Call | str:
    return DENSE_CONV2D[name](conv, x)


def _onnxruntime(conv: nn.Conv2d, x: Tensor, block: tuple[int, int]) -> Call | str:
    """One Conv, NCHW in and out; around it ONNX Runtime converts to the blocks of channels it computes in."""
    if x.dtype not in (torch.float32, torch.float16):
        return f"numpy, which feeds ONNX Runtime, has no {x.dtype}"
    (pad_h, pad_w), bias = _numbers(conv.padding), conv.bias
    attributes = {
        "kernel_shape": conv.kernel_size,
        "strides": conv.stride,
        "pads": (pad_h, pad_w, pad_h, pad_w),
        "dilations": conv.dilation,
        "group": conv.groups,
    }
    constants = {"w": conv.weight, **({} if bias is None else {"b": bias})}
    model = onnx_model("Conv", constants, (x.shape, _output_shape(conv, x)), attributes)
    return InLayout(onnxruntime_call(model), Tensor.contiguous, x)


def _im2col_csr(conv: nn.Conv2d, x: Tensor, block: tuple[int, int]) -> Call | str:
    """What can be built from torch's own parts: patches as columns, times the weight in CSR."""
    if conv.groups != 1:
        return f"takes one group, not {conv.groups}"
    csr = conv.weight.detach().flatten(1).to_sparse_csr()
    return partial(_im2col_matmul, conv, csr)


def _im2col_matmul(conv: nn.Conv2d, csr: Tensor, x: Tensor) -> Tensor:
    batch, _, *size = _output_shape(conv, x)
    if set(conv.kernel_size) | set(conv.stride) == {1} and set(_numbers(conv.padding)) == {0}:
        columns = x.flatten(2)  # every position is a patch already
    else:
        columns = F.unfold(x, conv.kernel_size, conv.dilation, _numbers(conv.padding), conv.stride)
    if batch == 1:
        y = (csr @ columns[0]).view(1, -1, *size)
    else:
        y = (csr @ columns.transpose(0, 1).flatten(1)).view(-1, batch, *size).transpose(0, 1)
    return y if conv.bias is None else y + conv.bias[:, None, None]


def _sparseprop(conv: nn.Conv2d, x: Tensor, block: tuple[int, int]) -> Call | str:
    """The faster of its two kernels, which vectorize over the batch and over a row of the output."""
    if x.dtype is not torch.float32:
        return f"takes float32, not {x.dtype}"
    stride, padding, kernel = conv.stride, _numbers(conv.padding), conv.kernel_size
    if stride[0] != stride[1] or padding[0] != padding[1] or kernel[0] != kernel[1]:
        return f"takes square geometries, not kernel {kernel}, stride {stride}, padding {padding}"
    if stride[0] not in (1, 2) or conv.groups != 1 or set(conv.dilation) != {1}:
        return "takes stride 1 or 2, one group, no dilation"
    from sparseprop.modules import SparseConv2d as SparsePropConv2d

    layers = {str(over): SparsePropConv2d.from_dense(conv, over) for over in (False, True)}
    calls = {name: InLayout(layer, Tensor.contiguous, x) for name, layer in layers.items()}
    times = interleave({name: partial(call, x) for name, call in calls.items()}, budget_s=0.1)
    return calls[min(times, key=lambda name: times[name].median_us)]


def _sparsekern(conv: nn.Conv2d, x: Tensor, block: tuple[int, int]) -> Call | str:
    return SparseConv2d.from_dense(conv, block=block)


RIVALS_CONV2D: dict[str, Prepare] = {
    **{name: partial(_dense, name) for name in DENSE_CONV2D},
    "onnxruntime": _onnxruntime,
    "im2col_csr": _im2col_csr,
    "sparseprop": _sparseprop,
    "sparsekern": _sparsekern,
}
"""name -> prepare(conv, x, block), a call, or the refusal in words; conv is plain, with its zeros in place, x
(N, C, H, W)."""

DENSE_RIVALS_CONV2D = (*DENSE_CONV2D, "onnxruntime")
"""Those among which the best dense one is found."""

CSR_RIVALS_CONV2D = ("im2col_csr",)


def prepare_conv2d(rival: str, conv: nn.Conv2d, x: Tensor, block: tuple[int, int]) -> Call | str:
    """The call of a rival for this layer, called once, or its refusal in words."""
    return attempt(rival, RIVALS_CONV2D, (conv, x, block), x)


def _numbers(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(padding, str):
        raise ValueError(f"padding: expected numbers, as all cases have them, got {padding!r}")
    return padding


def _output_shape(conv: nn.Conv2d, x: Tensor) -> torch.Size:
    y: Tensor = conv._conv_forward(torch.empty_like(x, device="meta"), conv.weight.to("meta"), None)
    return y.shape
