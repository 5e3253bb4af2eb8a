"""QuantizedSparseLinear: a block-sparse layer of int8 weights, for inference on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels.select import ACTIVATIONS
from sparsekern.nn.layer import effective_weight
from sparsekern.nn.linear import SparseLinear

LARGEST = 127
"""int8 is used from -127 to 127, so that its sign can be turned."""


class QuantizedSparseLinear(nn.Module):
    """``y = x Wᵀ + b`` with int8 weights in blocks ``(V, 4)``, V a multiple of 16; no gradients.

    Each output has one scale, its largest weight over 127. Each row of ``x`` (float32 or bfloat16) is
    quantized in the call, with its own scale. Products are summed exactly; ``y`` has the dtype of ``x``.

    Its tensors are buffers and keep their dtypes: ``values`` int8 (blocks, V, 4) in the order of torch's BSR
    layout, ``scales`` float32 (n,), ``bias`` float32 (n,) or None, ``crow`` and ``col`` int32.
    """

    values: Tensor
    scales: Tensor
    bias: Tensor | None
    crow: Tensor
    col: Tensor

    def __init__(
        self, weight: BlockSparse, bias: Tensor | None = None, *, activation: str | None = None
    ) -> None:
        """A layer around the rounded ``weight``; ``bias`` (n,). ``activation``, None, "relu" or "gelu", is
        applied to the output by the kernel.

        Raises:
            ValueError: the blocks are not (V, 4), the weight is not on the CPU or not finite, ``bias`` has
                another shape, or the activation is unknown.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.block, self.activation = weight.block, activation
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {ACTIVATIONS}, got {activation!r}")
        if weight.block[1] != 4 or weight.block[0] % 16:
            raise ValueError(f"block: expected (V, 4), V a multiple of 16, got {weight.block}")
        if weight.values.device.type != "cpu":
            raise ValueError(f"expected a weight on the cpu, got one on {weight.values.device}")
        if bias is not None and bias.shape != (self.out_features,):
            raise ValueError(f"bias: expected ({self.out_features},), got {tuple(bias.shape)}")
        values, scales = quantize(weight)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone().contiguous())
        self.register_buffer("crow", weight.crow.clone())
        self.register_buffer("col", weight.col.clone())

    @classmethod
    def from_dense(
        cls, linear: nn.Linear, block: tuple[int, int] = (16, 4), mask: Tensor | None = None
    ) -> QuantizedSparseLinear:
        """A quantized copy of ``linear``: dense, masked or a :class:`SparseLinear`.

        Args:
            linear: the layer; of a SparseLinear the activation is kept too.
            block: ``(V, 4)``, V a multiple of 16; ragged edges are no error.
            mask: bool (n, k), true where the weight is alive; by default the layer's own mask, or where it is
                not zero.

        Raises:
            ValueError: the block does not fit, or the mask has another shape.
        """
        if isinstance(linear, SparseLinear):
            weight, alive, activation = linear.weight.detach(), linear.mask, linear.activation
        else:
            (weight, alive), activation = effective_weight(linear), None
        matrix = BlockSparse.from_dense(weight, block, alive if mask is None else mask)
        return cls(matrix, linear.bias, activation=activation).train(linear.training)

    @property
    def weight(self) -> Tensor:
        """The dense weight (n, k) that the rounded one stands for, float32, made anew on each access."""
        shape = (self.out_features, self.in_features)
        matrix = BlockSparse.trusted(shape, self.crow, self.col, self.values.float())
        return matrix.to_dense() * self.scales[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., n).

        Raises:
            ValueError: ``x`` wants a gradient, or does not fit.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError("x wants a gradient, which int8 weights do not give; expected torch.no_grad()")
        from sparsekern.kernels import cpu_int8  # the extension, without which GPUs get along

        weight = (self.values, self.scales, self.bias, self.crow, self.col)
        return cpu_int8.linear(x, weight, self.in_features, self.activation)

    def variant(self, rows: int) -> str:
        """What runs for so many rows of x, in a word."""
        from sparsekern.kernels import cpu_int8

        return cpu_int8.variant(rows)

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        stored = self.values.numel() / max(self.out_features * self.in_features, 1)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, block={self.block}, density={stored:.3f}"
            + (f", activation={self.activation}" if self.activation else "")
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedSparseLinear:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self._buffers.items():  # they may move; the kernel wants their dtypes as they are
            old = before[name]
            if buffer is not None and old is not None and buffer.dtype is not old.dtype:
                self._buffers[name] = old.to(buffer.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        parts = {name: getattr(self, name) for name in ("crow", "col", "values")}
        given = [name for name in parts if prefix + name in state_dict]
        parts |= {name: state_dict[prefix + name].detach().to(self.values.device) for name in given}
        values = parts.pop("values")
        if values.dtype is not torch.int8:
            raise ValueError(f"{prefix}values: expected torch.int8, got {values.dtype}")
        # Another pattern may have another number of blocks. The format checks what is in it.
        shape = (self.out_features, self.in_features)
        matrix = BlockSparse(shape, self.block, **parts, values=values.float())
        self.crow, self.col = matrix.crow.clone(), matrix.col.clone()
        self.values = values.clone().contiguous()
        own = {prefix + name: getattr(self, name) for name in given}
        super()._load_from_state_dict({**state_dict, **own}, prefix, *args)


def quantize(weight: BlockSparse) -> tuple[Tensor, Tensor]:
    """``(values, scales)``: int8 (nnz, V, U) and float32 (n,), ``scales`` the largest ``|w|`` of each output
    over 127. What lies beyond ragged edges becomes zero.

    Raises:
        ValueError: a weight is not finite.
    """
    n, k = weight.shape
    outputs = weight.block_row()[:, None] * weight.block[0] + torch.arange(weight.block[0])
    inputs = weight.col.long()[:, None] * weight.block[1] + torch.arange(weight.block[1])
    exist = (outputs < n)[:, :, None] & (inputs < k)[:, None, :]
    values = torch.where(exist, weight.values.detach().float(), 0.0)
    if not bool(values.isfinite().all()):
        raise ValueError(f"expected finite weights, got {int((~values.isfinite()).sum())} that are not")
    rows = weight.crow.numel() - 1
    largest = torch.zeros(rows * weight.block[0])
    largest.scatter_reduce_(0, outputs.flatten(), values.abs().amax(-1).flatten(), "amax")
    scales = largest / LARGEST
    divisor = torch.where(scales > 0, scales, 1.0)[outputs]
    rounded = (values / divisor[:, :, None]).round().clamp(-LARGEST, LARGEST)
    return rounded.to(torch.int8), scales[:n].clone()
