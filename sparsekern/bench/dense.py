"""The dense rivals: sparse is compared with the fastest of them, never only with eager torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekern.bench.timing import Timing

Call = Callable[[Tensor], Tensor]
Prepare = Callable[[Tensor, "Tensor | None", Tensor], "Call | str"]


def prepare_torch(weight: Tensor, bias: Tensor | None, x: Tensor) -> Call | str:
    """What the user has: `torch.nn.functional.linear`, eager."""
    return partial(_torch_linear, weight.detach(), _detached(bias))


def prepare_onednn(weight: Tensor, bias: Tensor | None, x: Tensor) -> Call | str:
    """oneDNN with a weight packed once for the rows of `x`, the fastest dense there is on many CPUs.

    The result is checked against `torch.nn.functional.linear` on `x` before it is handed out; a str says
    why oneDNN cannot serve. The packed call takes any number of rows, and has no gradient.
    """
    refusal = _onednn_refusal(weight, x)
    if refusal is not None:
        return refusal
    weight, bias = weight.detach(), _detached(bias)
    rows = x.numel() // max(x.shape[-1], 1)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        call = partial(_onednn_linear, packed, bias)
        with torch.no_grad():
            agrees = _agrees(call(x), F.linear(x, weight, bias), x, weight)
    except RuntimeError as error:
        return f"oneDNN failed: {str(error).splitlines()[0]}"
    return call if agrees else "oneDNN disagrees with torch.nn.functional.linear"


DENSE: dict[str, Prepare] = {"torch": prepare_torch, "onednn": prepare_onednn}
"""Dense rivals for `y = x W^T + b`: name -> `prepare(weight, bias, x)`, a call or the refusal in words.

`weight` is (n, k), `bias` (n,) or None, `x` (..., k) with the number of rows that will be timed.
"""


def best_dense(times: Mapping[str, Timing]) -> str:
    """Name of the fastest of the dense timings, by median. ValueError when there is none."""
    if not times:
        raise ValueError("no dense timing to choose from, expected at least one")
    return min(times, key=lambda name: times[name].median_us)


def _onednn_refusal(weight: Tensor, x: Tensor) -> str | None:
    if weight.device.type != "cpu":
        return f"oneDNN runs on the cpu, not on {weight.device.type}"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch was built without oneDNN"
    if not all(hasattr(torch.ops.mkldnn, op) for op in ("_reorder_linear_weight", "_linear_pointwise")):
        return f"torch {torch.__version__} has no prepacked oneDNN linear"
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16) or x.dtype != weight.dtype:
        return f"oneDNN takes float32, bfloat16 or float16, not x {x.dtype} with weight {weight.dtype}"
    if weight.dtype is torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return "oneDNN has no float16 on this CPU"
    if x.numel() == 0 or weight.numel() == 0:
        return f"nothing to compute for x {tuple(x.shape)} and weight {tuple(weight.shape)}"
    return None


def _agrees(got: Tensor, want: Tensor, x: Tensor, weight: Tensor) -> bool:
    """Equal within rounding where `want` is finite.

    |x_i| |w_j| bounds each sum (Cauchy-Schwarz), eps sqrt(k) its drift.
    """
    drift = 4 * sqrt(weight.shape[1]) * torch.finfo(torch.float32).eps
    scale = x.float().norm(dim=-1, keepdim=True) * weight.float().norm(dim=1)
    limit = drift * scale + 2 * torch.finfo(want.dtype).eps * want.float().abs()
    close = (got.float() - want.float()).abs() <= limit
    return bool((close | ~want.isfinite()).all())


def _torch_linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return F.linear(x, weight, bias)


def _onednn_linear(packed: Tensor, bias: Tensor | None, x: Tensor, unary: str = "none") -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, unary, [], "")
    return result


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
