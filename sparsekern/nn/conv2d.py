"""SparseConv2d: an nn.Conv2d that stores and multiplies only what is not pruned."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import ConvGeometry, PackedConv
from sparsekern.kernels.table import BY_NAME
from sparsekern.nn.layer import SparseLayer
from sparsekern.ops import conv2d_packed

CONV_BLOCKS = ((1, 1), (8, 1), (16, 1), (32, 1))
"""Blocks that ``block=None`` and ``swap_`` consider."""

_COPIED = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "transposed",
    "output_padding",
    "groups",
    "padding_mode",
    "_reversed_padding_repeated_twice",
)


class SparseConv2d(SparseLayer, nn.Conv2d):  # type: ignore[override]  # weight is a property here
    """``y = conv(x) + b`` with a block-sparse weight: ``x`` is (batch, in, height, width), or without batch.

    It stays an ``nn.Conv2d`` for whoever asks, with its strides, padding, padding mode, dilation and groups.
    The weight (out, in / groups, kh, kw) is kept as a matrix (out, k), k = in / groups * kh * kw, whose rows
    are the filters laid out in a line, in blocks ``(out, k)`` of it. ``(1, 1)`` is single weights,
    ``(16, 1)`` 16 filters that share their places, ``(1, kh * kw)`` whole kernels, ``(1, k)`` whole filters.

    What trains is ``values``, a Parameter (blocks, out, in) in the order of torch's BSR layout; ``weight`` is
    the dense one, made from it on each access, differentiable, not a Parameter. Weights that were pruned stay
    pruned: a zero inside a stored block gets no gradient.

    The state dict holds ``values``, ``crow``, ``col`` and ``bias``. A dense checkpoint (``weight``, ``bias``)
    loads too: the pattern is then read from its zeros, in this layer's block.
    """

    dense_name = "Conv2d"
    blocks = CONV_BLOCKS
    typical_rows = 1024

    def __init__(
        self,
        weight: BlockSparse,
        like: nn.Conv2d,
        bias: Tensor | None = None,
        *,
        kept: Tensor | None = None,
        activation: str | None = None,
    ) -> None:
        """A layer around ``weight`` (out, k) that convolves as ``like`` does; of that one's own weight and
        bias nothing is taken, so it may be on the meta device. ``bias`` (out,). ``kept``, bool like
        ``weight.values``, marks what may train in blocks that are stored but partly pruned. ``activation``,
        None, "relu" or "gelu", is applied to the output by the kernel.

        Raises:
            ValueError: the weight has another shape than that of ``like`` as a matrix, ``bias`` another
                shape, dtype or device than the weight wants, or the activation is unknown.
        """
        geometry = self.geometry_of(like)
        if weight.shape != geometry.matrix_shape:
            raise ValueError(
                f"weight: expected {geometry.matrix_shape}, that of {geometry.weight_shape} as a matrix, "
                f"got {weight.shape}"
            )
        nn.Module.__init__(self)  # nn.Conv2d's would make a dense weight
        vars(self).update({name: getattr(like, name) for name in _COPIED})
        self._hold(weight, bias, kept, activation)

    @classmethod
    def from_dense(
        cls, conv: nn.Conv2d, block: tuple[int, int] | None = (1, 1), mask: Tensor | None = None
    ) -> SparseConv2d:
        """A sparse copy of ``conv``, which may be masked, pruned by ``torch.nn.utils.prune``, or simply hold
        zeros.

        Args:
            conv: the layer; its bias Parameter is shared, not copied.
            block: ``(out, k)``, as the class says; a block taller or wider than the weight as a matrix is an
                error, ragged edges are not. None takes the one of ``CONV_BLOCKS`` that the cost function
                expects to be fastest.
            mask: bool of the weight's shape, true where the weight is alive; by default the layer's own mask,
                or where it is not zero.

        Raises:
            ValueError: the block does not fit, or the mask has another shape.
        """
        return cls.from_layer(conv, block, mask)

    def to_dense(self) -> nn.Conv2d:
        """A plain ``nn.Conv2d`` with the same weight and the same bias Parameter.

        Raises:
            ValueError: this layer has an activation, which a plain one would lose.
        """
        self._refuse_activation()
        return cast(nn.Conv2d, self.dense_without_activation())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(conv(x) + bias + residual)``: (batch, in, height, width) to (batch, out, rows,
        columns), or both without batch. ``residual`` is of the output's shape and dtype. The output lies in
        memory as ``x`` does, by default or channels last.

        Raises:
            RuntimeError: shapes or dtypes do not fit, as ``nn.Conv2d`` raises it.
        """
        if self.padding_mode != "zeros":
            x = nn.functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        return conv2d_packed(x, self._packed(), self.kernel, self.activation, residual)

    def variant(self, rows: int) -> str:
        """What of its kernel runs, in a word: the same for any number of output positions."""
        return BY_NAME[self.kernel].conv_backend().variant(self._packed())

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return f"{nn.Conv2d.extra_repr(self)}, {self._sparse_repr()}"  # type: ignore[no-untyped-call]

    def _packed(self) -> PackedConv:
        # Straight from the dictionaries, as in SparseLinear.
        buffers = self._buffers
        return PackedConv(
            self._alive_values(),
            self._parameters["bias"],
            buffers["crow"],  # type: ignore[arg-type]
            buffers["col"],  # type: ignore[arg-type]
            self.index,
            self._known[1] if self._known[0] == self._attributes() else self.geometry_of(self),
        )

    def _attributes(self) -> tuple[object, ...]:
        """All that ``geometry_of`` reads."""
        sizes = (self.out_channels, self.in_channels, self.kernel_size, self.groups)
        return *sizes, self.stride, self.padding, self.padding_mode, self.dilation

    def _plan(self, weight: BlockSparse) -> None:
        super()._plan(weight)
        self._known = self._attributes(), self.geometry_of(self)  # reading it costs as much as a small op

    # ---- what SparseLayer asks

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def empty_dense(self) -> nn.Conv2d:
        """On the meta device, without a bias."""
        with torch.device("meta"):
            dense = nn.Conv2d(self.in_channels, self.out_channels, 1, groups=self.groups, bias=False)
        vars(dense).update({name: getattr(self, name) for name in _COPIED})
        return dense

    @classmethod
    def _around(cls, matrix: BlockSparse, dense: nn.Module, kept: Tensor | None) -> SparseConv2d:
        conv = cast(nn.Conv2d, dense)
        return cls(matrix, conv, conv.bias, kept=kept)

    @classmethod
    def geometry_of(cls, dense: nn.Module) -> ConvGeometry:
        """Read from the attributes of an ``nn.Conv2d`` as they are now, as its forward does. Where it does
        not pad with zeros there is none: what it pads with is put around ``x`` before."""
        conv = cast(nn.Conv2d, dense)
        kh, kw = conv.kernel_size
        return ConvGeometry(
            conv.out_channels,
            conv.in_channels,
            kh,
            kw,
            *_pair(conv.stride),
            *_zeros_around(conv),
            *_pair(conv.dilation),
            conv.groups,
        )

    @classmethod
    def compute(cls, dense: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution, with the dense layer's own padding."""
        y: Tensor = cast(nn.Conv2d, dense)._conv_forward(x, weight, bias)
        return y


def _pair(sizes: int | tuple[int, ...]) -> tuple[int, int]:
    """nn.Conv2d keeps pairs, but whoever sets an attribute later may have put a number there."""
    return (sizes, sizes) if isinstance(sizes, int) else (sizes[0], sizes[-1])


def _zeros_around(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Top, left, bottom, right. An odd one of "same" goes to the bottom and the right, as torch puts it."""
    padding = conv.padding
    if conv.padding_mode != "zeros" or padding == "valid":
        return 0, 0, 0, 0
    if isinstance(padding, str):
        if _pair(conv.stride) != (1, 1):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        total = [d * (k - 1) for d, k in zip(_pair(conv.dilation), conv.kernel_size, strict=True)]
        (high, wide), (top, left) = total, (total[0] // 2, total[1] // 2)
        return top, left, high - top, wide - left
    high, wide = _pair(padding)
    return high, wide, high, wide
