"""SparseLinear: an nn.Linear that stores and multiplies only what is not pruned."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.nn.layer import SparseLayer
from sparsekern.ops import linear_packed

BLOCKS = ((1, 1), (8, 1), (16, 1), (32, 1), (16, 2), (32, 2))
"""Blocks that ``block=None`` and ``swap_`` consider."""


class SparseLinear(SparseLayer, nn.Linear):  # type: ignore[misc, override]  # weight is a property here
    """``y = x Wᵀ + b`` with a block-sparse ``W`` (n, k): ``x`` (..., k) to (..., n).

    It stays an ``nn.Linear`` for whoever asks. What trains is ``values``, a Parameter (blocks, out, in) in
    the order of torch's BSR layout; ``weight`` is the dense (n, k) matrix made from it on each access,
    differentiable, not a Parameter. Weights that were pruned stay pruned: a zero inside a stored block gets
    no gradient.

    The state dict holds ``values``, ``crow``, ``col`` and ``bias``. A dense checkpoint (``weight``, ``bias``)
    loads too: the pattern is then read from its zeros, in this layer's block.
    """

    dense_name = "Linear"
    blocks = BLOCKS
    typical_rows = 64

    def __init__(
        self,
        weight: BlockSparse,
        bias: Tensor | None = None,
        *,
        kept: Tensor | None = None,
        activation: str | None = None,
    ) -> None:
        """A layer around ``weight``; ``bias`` (n,). ``kept``, bool like ``weight.values``, marks what may
        train in blocks that are stored but partly pruned. ``activation``, None, "relu" or "gelu", is applied
        to the output by the kernel.

        Raises:
            ValueError: ``bias`` has another shape, dtype or device than the weight wants, or the activation
                is unknown.
        """
        nn.Module.__init__(self)  # nn.Linear's would make a dense weight
        self.out_features, self.in_features = weight.shape
        self._hold(weight, bias, kept, activation)

    @classmethod
    def from_dense(
        cls, linear: nn.Linear, block: tuple[int, int] | None = (1, 1), mask: Tensor | None = None
    ) -> SparseLinear:
        """A sparse copy of ``linear``, which may be masked, pruned by ``torch.nn.utils.prune``, or simply
        hold zeros.

        Args:
            linear: the layer; its bias Parameter is shared, not copied.
            block: ``(out, in)``; a block taller or wider than the layer is an error, ragged edges are not.
                None takes the one of ``BLOCKS`` that the cost function expects to be fastest.
            mask: bool (n, k), true where the weight is alive; by default the layer's own mask, or where it is
                not zero.

        Raises:
            ValueError: the block does not fit, or the mask has another shape.
        """
        return cls.from_layer(linear, block, mask)

    def to_dense(self) -> nn.Linear:
        """A plain ``nn.Linear`` with the same weight and the same bias Parameter.

        Raises:
            ValueError: this layer has an activation, which a plain one would lose.
        """
        self._refuse_activation()
        return cast(nn.Linear, self.dense_without_activation())

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., n)."""
        return linear_packed(x, self._packed(), self.kernel, self.activation)

    def variant(self, rows: int) -> str:
        """What of its kernel runs for so many rows of x, in a word: a kernel may have several for one
        weight."""
        return BY_NAME[self.kernel].backend().variant(rows, self._packed())

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self._sparse_repr()}"
        )

    def _packed(self) -> PackedWeight:
        # Straight from the dictionaries: nn.Module's attribute access costs as much as the op itself.
        buffers = self._buffers
        return PackedWeight(
            self._alive_values(),
            self._parameters["bias"],
            buffers["crow"],  # type: ignore[arg-type]
            buffers["col"],  # type: ignore[arg-type]
            self.index,
            self.out_features,
            self.in_features,
        )

    # ---- what SparseLayer asks

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features

    def empty_dense(self) -> nn.Linear:
        """On the meta device, without a bias."""
        with torch.device("meta"):
            return nn.Linear(self.in_features, self.out_features, bias=False)

    @classmethod
    def _around(cls, matrix: BlockSparse, dense: nn.Module, kept: Tensor | None) -> SparseLinear:
        return cls(matrix, dense.bias, kept=kept)  # type: ignore[arg-type]  # that of an nn.Linear

    @classmethod
    def compute(cls, dense: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x Wᵀ + b``."""
        return nn.functional.linear(x, weight, bias)
