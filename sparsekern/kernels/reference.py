"""The reference: the weight made dense, then torch. Any device, dtype and block; never faster than dense."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import PackedWeight


class _Linear:
    def pack(self, weight: BlockSparse) -> Tensor:
        return torch.empty(0, dtype=torch.int32, device=weight.col.device)

    def run(self, x: Tensor, weight: PackedWeight, activation: str | None = None) -> Tensor:
        weight.check(x)
        matrix = BlockSparse.trusted((weight.n, weight.k), weight.crow, weight.col, weight.values)
        return activate(torch.nn.functional.linear(x, matrix.to_dense(), weight.bias), activation)

    def variant(self, rows: int, weight: PackedWeight) -> str:
        return "dense"


def activate(y: Tensor, activation: str | None) -> Tensor:
    """torch's own activation of that name; None leaves ``y`` as it is."""
    return y if activation is None else _ACTIVATIONS[activation](y)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.nn.functional.relu,
    "gelu": torch.nn.functional.gelu,
}


linear = _Linear()
