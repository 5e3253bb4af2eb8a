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

    @staticmethod
    def _matrix(weight: PackedWeight) -> BlockSparse:
        return BlockSparse.trusted((weight.n, weight.k), weight.crow, weight.col, weight.values)

    def run(self, x: Tensor, weight: PackedWeight, activation: str | None = None) -> Tensor:
        weight.check(x)
        dense = self._matrix(weight).to_dense()
        return activate(torch.nn.functional.linear(x, dense, weight.bias), activation)

    def grad_input(self, grad: Tensor, weight: PackedWeight) -> Tensor:
        return grad @ self._matrix(weight).to_dense()

    def grad_values(self, grad: Tensor, x: Tensor, weight: PackedWeight) -> Tensor:
        return self._matrix(weight).sample(rows_of(grad).t() @ rows_of(x))

    def variant(self, rows: int, weight: PackedWeight) -> str:
        return "dense"


def rows_of(x: Tensor) -> Tensor:
    """``(..., k)`` to ``(m, k)``, whatever of it is zero."""
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


def activate(y: Tensor, activation: str | None) -> Tensor:
    """torch's own activation of that name; None leaves ``y`` as it is."""
    return y if activation is None else _ACTIVATIONS[activation](y)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.nn.functional.relu,
    "gelu": torch.nn.functional.gelu,
}


linear = _Linear()
