"""The dense rivals of a 2-d convolution: which of them is fastest depends on the shape and on the layout.

oneDNN, as torch calls it, convolves directly. Winograd's algorithm, which multiplies several times less, is
in NNPACK; it is here so that nobody has to guess whether it would have won.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.bench.dense import Call

PrepareConv = Callable[[nn.Conv2d, Tensor], "Call | str"]
Pairs = tuple[list[int], list[int], list[int]]

FAST_ALGORITHM_UNITS = 256
"""Roundings of |x| |w| that Winograd and FFT may add: their transforms of 8 x 8 and 16 x 16 tiles magnify
what is rounded before them. On normal values at most 23 were seen."""


class InLayout:
    """A call in a layout of its own: the `x` that it was prepared with is converted once, before; any other
    input is converted in the call.

    In a whole network every layer's input comes in the layout of the layer before, so the conversion is no
    part of what a layer costs. The result stays in that layout too: it may be channels_last, or opaque; its
    `to_dense()` is a plain tensor in any case. What `x` holds must not change afterwards.
    """

    def __init__(self, compute: Call, convert: Call, x: Tensor) -> None:
        self.compute, self.convert = compute, convert
        self.source, self.converted = x, convert(x)

    def __call__(self, x: Tensor) -> Tensor:
        """The convolution of x."""
        return self.compute(self.converted if x is self.source else self.convert(x))


def prepare_torch(conv: nn.Conv2d, x: Tensor) -> Call | str:
    """What the user has: eager, weight and input in the memory formats that they came in."""
    return _refusal(conv, x) or _eager(conv, conv.weight.detach())


def prepare_channels_last(conv: nn.Conv2d, x: Tensor) -> Call | str:
    """Eager, with weight and input in channels_last."""
    return _refusal(conv, x) or _in_format(conv, x, torch.channels_last)


def prepare_contiguous(conv: nn.Conv2d, x: Tensor) -> Call | str:
    """Eager, with weight and input in torch's own format, NCHW."""
    return _refusal(conv, x) or _in_format(conv, x, torch.contiguous_format)


def prepare_onednn(conv: nn.Conv2d, x: Tensor) -> Call | str:
    """oneDNN in channels_last, with a weight packed once for inputs of the size of `x`. No gradient."""
    refusal = _refusal(conv, x) or _onednn_refusal(conv, x)
    if refusal is not None:
        return refusal
    geometry = (*_pairs(conv), conv.groups)
    try:
        weight = conv.weight.detach()
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(x.shape))
    except RuntimeError as error:
        return _failed("oneDNN", error)
    call = partial(_onednn_conv, packed, _bias(conv), geometry)
    return _checked("oneDNN", conv, x, partial(InLayout, call, _channels_last))


def prepare_onednn_blocked(conv: nn.Conv2d, x: Tensor) -> Call | str:
    """oneDNN in the layout that it chooses, with a weight packed once: what a network of opaque tensors runs
    (`torch.utils.mkldnn`). The result is an opaque tensor. No gradient."""
    refusal = _refusal(conv, x) or _onednn_refusal(conv, x)
    if refusal is not None:
        return refusal
    pairs = padding, stride, dilation = _pairs(conv)
    try:
        opaque = conv.weight.detach().contiguous().to_mkldnn()
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub lacks the input's size
        packed = reorder(opaque, *pairs, conv.groups, list(x.shape))
    except RuntimeError as error:
        return _failed("oneDNN", error)
    bias = _bias(conv)
    call = partial(
        torch.conv2d,
        weight=packed,
        bias=None if bias is None else bias.to_mkldnn(),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=conv.groups,
    )
    return _checked("oneDNN", conv, x, partial(InLayout, call, _opaque))


def prepare_nnpack(conv: nn.Conv2d, x: Tensor) -> Call | str:
    """NNPACK: Winograd for 3x3, FFT for larger kernels. It transforms the weight in every call."""
    refusal = _refusal(conv, x) or _plain_padding(conv) or _nnpack_refusal(conv, x)
    if refusal is not None:
        return refusal
    padding, stride, _ = _pairs(conv)
    weight = conv.weight.detach().contiguous()
    run = partial(
        torch._nnpack_spatial_convolution, weight=weight, bias=_bias(conv), padding=padding, stride=stride
    )
    return _checked("NNPACK", conv, x, partial(InLayout, run, _contiguous), fast=True)


DENSE_CONV2D: dict[str, PrepareConv] = {
    "torch": prepare_torch,
    "channels_last": prepare_channels_last,
    "contiguous": prepare_contiguous,
    "onednn": prepare_onednn,
    "onednn_blocked": prepare_onednn_blocked,
    "nnpack": prepare_nnpack,
}
"""Dense rivals for a convolution: name -> `prepare(conv, x)`, a call or the refusal in words.

`conv` is a plain `nn.Conv2d` with its zeros in place, `x` (N, C, H, W) the input that will be timed, in the
memory format that it really has. Calls are right for other inputs too, at their cost (`InLayout`).
"""


def as_conv2d(conv: nn.Conv1d) -> nn.Conv2d:
    """The same convolution, its lines (N, C, L) taken as maps of one row: (N, C, 1, L). torch's own conv1d
    does nothing else, so what is fastest for such maps is fastest for the lines."""
    padding = conv.padding if isinstance(conv.padding, str) else (0, _pair(conv.padding)[-1])
    with torch.device("meta"):
        same = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            (1, conv.kernel_size[0]),
            (1, _pair(conv.stride)[-1]),
            padding,
            (1, _pair(conv.dilation)[-1]),
            conv.groups,
            bias=False,
            padding_mode=conv.padding_mode,
        )
    same.weight = nn.Parameter(conv.weight.detach().unsqueeze(-2), False)
    same.bias = conv.bias
    return same


def _refusal(conv: nn.Conv2d, x: Tensor) -> str | None:
    """What no rival computes."""
    channels, size = conv.in_channels, tuple(x.shape)
    if x.dim() != 4 or size[1] != channels:
        return f"takes inputs (N, {channels}, H, W), not {size}"
    if x.dtype != conv.weight.dtype or x.device != conv.weight.device:
        return f"x is {x.dtype} on {x.device}, the weight {conv.weight.dtype} on {conv.weight.device}"
    if x.numel() == 0 or conv.weight.numel() == 0:
        return f"nothing to compute for x {size} and weight {tuple(conv.weight.shape)}"
    return None


def _in_format(conv: nn.Conv2d, x: Tensor, form: torch.memory_format) -> Call | str:
    weight = conv.weight.detach()
    if x.is_contiguous(memory_format=form) and weight.is_contiguous(memory_format=form):
        return "the same as torch: x and the weight have this memory format already"
    call = _eager(conv, weight.contiguous(memory_format=form))
    return InLayout(call, _channels_last if form is torch.channels_last else _contiguous, x)


def _plain_padding(conv: nn.Conv2d) -> str | None:
    """Why the padding cannot be said in one number for each direction; None if it can."""
    if conv.padding_mode != "zeros":
        return f"pads with zeros, not with padding_mode {conv.padding_mode!r}"
    if conv.padding == "same" and any(reach % 2 for reach in _reach(conv)):
        return f"pads both sides alike, which 'same' of a kernel {conv.kernel_size} does not"
    return None


def _pairs(conv: nn.Conv2d) -> Pairs:
    """(padding, stride, dilation) in numbers."""
    padding = conv.padding
    if isinstance(padding, str):
        padding = tuple(reach // 2 for reach in _reach(conv)) if padding == "same" else (0, 0)
    return _pair(padding), _pair(conv.stride), _pair(conv.dilation)


def _reach(conv: nn.Conv2d) -> list[int]:
    """How many more positions than one a kernel spans, with its gaps."""
    return [d * (k - 1) for d, k in zip(_pair(conv.dilation), conv.kernel_size, strict=True)]


def _pair(sizes: int | tuple[int, ...]) -> list[int]:
    """A layer keeps pairs, but whoever sets an attribute later may put a number there."""
    return [sizes, sizes] if isinstance(sizes, int) else list(sizes)


def _onednn_refusal(conv: nn.Conv2d, x: Tensor) -> str | None:
    if x.device.type != "cpu":
        return f"oneDNN runs on the cpu, not on {x.device.type}"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch was built without oneDNN"
    if not all(
        hasattr(torch.ops.mkldnn, op) for op in ("_reorder_convolution_weight", "_convolution_pointwise")
    ):
        return f"torch {torch.__version__} has no prepacked oneDNN convolution"
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"oneDNN takes float32, bfloat16 or float16, not {x.dtype}"
    if x.dtype is torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return "oneDNN has no float16 on this CPU"
    return _plain_padding(conv)


def _nnpack_refusal(conv: nn.Conv2d, x: Tensor) -> str | None:
    if x.device.type != "cpu" or x.dtype is not torch.float32:
        return f"NNPACK takes float32 on the cpu, not {x.dtype} on {x.device.type}"
    if conv.groups != 1 or _pair(conv.dilation) != [1, 1]:
        return f"NNPACK takes one group without dilation, not {conv.groups} with dilation {conv.dilation}"
    # Asking is not idle: NNPACK fails in every call until it has been initialised by this.
    if not torch._nnpack_available():
        return "this torch or this CPU has no NNPACK"
    return None


def _checked(
    who: str, conv: nn.Conv2d, x: Tensor, make: Callable[[Tensor], InLayout], fast: bool = False
) -> Call | str:
    """The call that `make` makes for x, if it computes what eager torch computes."""
    try:
        with torch.no_grad():
            call = make(x)
            got, want = call(x).to_dense(), _eager(conv, conv.weight.detach())(x)
            agrees = _agrees((got, want), conv, x, fast)
    except RuntimeError as error:
        return _failed(who, error)
    return call if agrees else f"{who} disagrees with torch.nn.functional.conv2d"


def _agrees(results: tuple[Tensor, Tensor], conv: nn.Conv2d, x: Tensor, fast: bool) -> bool:
    """Equal within rounding where eager's result is finite; results are (got, want).

    |x| |w| bounds each sum (Cauchy-Schwarz), eps sqrt(k) its drift; `fast` algorithms add `fast_rounding`.
    """
    got, want = results
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    drift = 4 * sqrt(conv.weight[0].numel()) * torch.finfo(torch.float32).eps
    limit = drift * _scale(conv, x) + 2 * torch.finfo(want.dtype).eps * want.float().abs()
    if fast:
        limit = limit + fast_rounding(conv, x)
    close = (got.float() - want.float()).abs() <= limit
    return bool((close | ~want.isfinite()).all())


def fast_rounding(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """How much more than direct convolution Winograd and FFT may round, (N, out, 1, 1) in float32.

    They work on whole tiles: a result at the edge, which meets few inputs, is rounded like its neighbours, so
    the largest |x| of an image counts everywhere.
    """
    scale = _scale(conv, x).amax((2, 3), keepdim=True)
    return FAST_ALGORITHM_UNITS * torch.finfo(torch.float32).eps * scale


def _scale(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """|x| |w| of the inputs and weights that meet in each sum, in float32 as (N, out, height, width)."""
    ones = torch.ones((conv.groups, *conv.weight.shape[1:]))
    reach = _convolve(conv, ones, None, x.float().square()).sqrt()
    size: Tensor = torch.linalg.vector_norm(conv.weight.detach().float(), dim=(1, 2, 3))
    return reach.repeat_interleave(conv.out_channels // conv.groups, 1) * size[:, None, None]


def _eager(conv: nn.Conv2d, weight: Tensor) -> Call:
    return partial(_convolve, conv, weight, _bias(conv))


def _convolve(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    result: Tensor = conv._conv_forward(x, weight, bias)  # with the layer's stride, padding mode and so on
    return result


def _onednn_conv(
    packed: Tensor,
    bias: Tensor | None,
    geometry: tuple[list[int], list[int], list[int], int],
    x: Tensor,
    other: Tensor | None = None,
    unary: str = "none",
) -> Tensor:
    """unary(conv(x) + other)."""
    run = torch.ops.mkldnn._convolution_pointwise
    result: Tensor
    if other is None:
        result = run(x, packed, bias, *geometry, unary, [], "")
    else:
        then = None if unary == "none" else unary
        result = run.binary(x, other, packed, bias, *geometry, "add", 1.0, then, [], "")
    return result


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def _opaque(x: Tensor) -> Tensor:
    return x.contiguous().to_mkldnn()


def _bias(conv: nn.Conv2d) -> Tensor | None:
    return None if conv.bias is None else conv.bias.detach()


def _failed(who: str, error: RuntimeError) -> str:
    return f"{who} failed: {str(error).splitlines()[0]}"
