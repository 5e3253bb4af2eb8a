"""Whether two networks give the same: what `compact_` and removed filters are checked by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of what a model gives, copied."""
    if isinstance(value, Tensor):
        return [value.clone()]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def difference(got: Sequence[Tensor], want: Sequence[Tensor]) -> str:
    """What is wrong with the outputs; empty if they are the same but for rounding."""
    for mine, other in zip(got, want, strict=True):
        if mine.shape != other.shape:
            return f"an output has the shape {tuple(mine.shape)} instead of {tuple(other.shape)}"
        if other.is_floating_point() and other.numel():
            far, most = float((mine.double() - other.double()).abs().max()), float(other.double().abs().max())
            if not far <= min(1000 * torch.finfo(other.dtype).eps, 0.05) * most:
                return f"an output differs by {far:.2g} of {most:.2g}"
        elif not torch.equal(mine, other):
            return "an output differs"
    return ""
