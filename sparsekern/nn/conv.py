"""SparseConv1d, SparseConv2d: convolutions that store and multiply only what is not pruned."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import ConvGeometry, PackedConv
from sparsekern.kernels.table import BY_NAME
from sparsekern.nn.layer import SparseLayer
from sparsekern.ops import conv1d_packed, conv2d_packed

CONV_BLOCKS = ((1, 1), (8, 1), (16, 1), (32, 1), (16, 2), (32, 2))
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

_OF_WEIGHT = ("in_channels", "out_channels", "groups")  # what its shape follows from


Conv = nn.Conv1d | nn.Conv2d
_Self = TypeVar("_Self", bound="SparseConv")


class SparseConv(SparseLayer):
    """What convolutions of one and of two dimensions have in common; one of a line is a map of one row.

    The weight (out, in / groups, taps) is kept as a matrix (out, k), k = in / groups * taps, whose rows are
    the filters laid out in a line, in blocks ``(out, k)`` of it. ``(1, 1)`` is single weights, ``(16, 1)`` 16
    filters that share their places, ``(1, taps)`` whole kernels, ``(1, k)`` whole filters.

    What trains is ``values``, a Parameter (blocks, out, in) in the order of torch's BSR layout; ``weight`` is
    the dense one, made from it on each access, differentiable, not a Parameter. Weights that were pruned stay
    pruned: a zero inside a stored block gets no gradient.

    The state dict holds ``values``, ``crow``, ``col`` and ``bias``. A dense checkpoint (``weight``, ``bias``)
    loads too: the pattern is then read from its zeros, in this layer's block.
    """

    dense_kind: ClassVar[type[Conv]]
    blocks = CONV_BLOCKS
    typical_rows = 1024

    _geometry: ConvGeometry | None  # None: something that it is made of was set since
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    groups: int

    def __init__(
        self,
        weight: BlockSparse,
        like: Conv,
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
        matrix_shape = self.geometry_of(like).matrix_shape
        if weight.shape != matrix_shape:
            raise ValueError(
                f"weight: expected {matrix_shape}, that of {_weight_shape_of(like)} as a matrix, "
                f"got {weight.shape}"
            )
        nn.Module.__init__(self)  # the dense layer's would make a dense weight
        vars(self).update({name: getattr(like, name) for name in _COPIED})
        self._hold(weight, bias, kept, activation)

    @classmethod
    def from_dense(
        cls: type[_Self], conv: Conv, block: tuple[int, int] | None = (1, 1), mask: Tensor | None = None
    ) -> _Self:
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

    def variant(self, rows: int) -> str:
        """What of its kernel runs, in a word: the same for any number of output positions."""
        return BY_NAME[self.kernel].conv_backend().variant(self._packed())

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        dense: Any = self.dense_kind
        return f"{dense.extra_repr(self)}, {self._sparse_repr()}"

    def _packed(self) -> PackedConv:
        # Straight from the dictionaries, as in SparseLinear.
        buffers = self._buffers
        return PackedConv(
            self._alive_values(),
            self._parameters["bias"],
            buffers["crow"],  # type: ignore[arg-type]
            buffers["col"],  # type: ignore[arg-type]
            self.index,
            self._geometry or self.geometry_of(self),
        )

    def _plan(self, weight: BlockSparse) -> None:
        super()._plan(weight)
        self._geometry = self.geometry_of(self)  # reading it costs as much as a small op

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OF_WEIGHT and value != (made_for := getattr(self, name)):
            raise ValueError(f"{name}: the weight was made for {made_for}, got {value}")
        super().__setattr__(name, value)
        if name in _COPIED:
            self._geometry = None

    # ---- what SparseLayer asks

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return _weight_shape_of(cast(Conv, self))

    def empty_dense(self) -> Conv:
        """On the meta device, without a bias."""
        with torch.device("meta"):
            dense = self.dense_kind(self.in_channels, self.out_channels, 1, groups=self.groups, bias=False)
        vars(dense).update({name: getattr(self, name) for name in _COPIED})
        return dense

    @classmethod
    def _around(cls: type[_Self], matrix: BlockSparse, dense: nn.Module, kept: Tensor | None) -> _Self:
        conv = cast(Conv, dense)
        return cls(matrix, conv, conv.bias, kept=kept)

    @classmethod
    def geometry_of(cls, dense: nn.Module) -> ConvGeometry:
        """Read from the attributes of a dense layer as they are now, as its forward does. Where it does not
        pad with zeros there is none: what it pads with is put around ``x`` before."""
        conv = cast(Conv, dense)
        return ConvGeometry(
            conv.out_channels,
            conv.in_channels,
            *_pair(conv, conv.kernel_size, 1),
            *_pair(conv, conv.stride, 1),
            *_zeros_around(conv),
            *_pair(conv, conv.dilation, 1),
            conv.groups,
        )

    @classmethod
    def compute(cls, dense: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution, with the dense layer's own padding."""
        y: Tensor = cast(Conv, dense)._conv_forward(x, weight, bias)
        return y


class SparseConv1d(SparseConv, nn.Conv1d):  # type: ignore[override]  # weight is a property here
    """``y = conv(x) + b`` with a block-sparse weight: ``x`` is (batch, in, length), or without batch.

    It stays an ``nn.Conv1d`` for whoever asks, with its stride, padding, padding mode, dilation and groups.
    Its weight (out, in / groups, taps) is kept as :class:`SparseConv2d` keeps that of a kernel (1, taps), and
    the same kernels run it.
    """

    dense_name, dense_kind = "Conv1d", nn.Conv1d

    def to_dense(self) -> nn.Conv1d:
        """A plain ``nn.Conv1d`` with the same weight and the same bias Parameter.

        Raises:
            ValueError: this layer has an activation, which a plain one would lose.
        """
        self._refuse_activation()
        return cast(nn.Conv1d, self.dense_without_activation())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(conv(x) + bias + residual)``: (batch, in, length) to (batch, out, positions), or both
        without batch. ``residual`` is of the output's shape and dtype. The output is contiguous.

        Raises:
            RuntimeError: shapes or dtypes do not fit, as ``nn.Conv1d`` raises it.
        """
        return conv1d_packed(_padded(self, x), self._packed(), self.kernel, self.activation, residual)


class SparseConv2d(SparseConv, nn.Conv2d):  # type: ignore[override]  # weight is a property here
    """``y = conv(x) + b`` with a block-sparse weight: ``x`` is (batch, in, height, width), or without batch.

    It stays an ``nn.Conv2d`` for whoever asks, with its strides, padding, padding mode, dilation and groups.
    What it keeps, :class:`SparseConv` says; taps are kh * kw.
    """

    dense_name, dense_kind = "Conv2d", nn.Conv2d

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
        return conv2d_packed(_padded(self, x), self._packed(), self.kernel, self.activation, residual)


def _weight_shape_of(conv: Conv) -> tuple[int, ...]:
    return conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size


def _pair(conv: Conv, sizes: int | tuple[int, ...], of_line: int) -> tuple[int, int]:
    """(down, across); ``of_line`` is the one down where there is one row. torch keeps tuples, but whoever
    sets an attribute later may have put a number there."""
    down, across = (sizes, sizes) if isinstance(sizes, int) else (sizes[0], sizes[-1])
    return (of_line if isinstance(conv, nn.Conv1d) else down), across


def _padded(conv: Conv, x: Tensor) -> Tensor:
    """``x`` with what is put around it before, if that is not zeros."""
    if conv.padding_mode == "zeros":
        return x
    return nn.functional.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)


def _zeros_around(conv: Conv) -> tuple[int, int, int, int]:
    """Top, left, bottom, right. An odd one of "same" goes to the bottom and the right, as torch puts it."""
    padding = conv.padding
    if conv.padding_mode != "zeros" or padding == "valid":
        return 0, 0, 0, 0
    if isinstance(padding, str):
        if _pair(conv, conv.stride, 1) != (1, 1):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        sizes = zip(_pair(conv, conv.dilation, 1), _pair(conv, conv.kernel_size, 1), strict=True)
        total = [d * (k - 1) for d, k in sizes]
        (high, wide), (top, left) = total, (total[0] // 2, total[1] // 2)
        return top, left, high - top, wide - left
    high, wide = _pair(conv, padding, 0)
    return high, wide, high, wide
