"""SparseLinear: an nn.Linear that stores and multiplies only what is not pruned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels import KERNELS, Problem, make_plan, select
from sparsekern.kernels.cost import relative_cost
from sparsekern.kernels.select import ACTIVATIONS, PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.masks import fit_block, masks_of, pool
from sparsekern.ops import linear_packed

BLOCKS = ((1, 1), (8, 1), (16, 1), (32, 1), (16, 2), (32, 2))
"""Blocks that ``block=None`` and ``swap_`` consider."""

TYPICAL_ROWS = 64  # a layer's kernel is chosen when it is made, before the rows of its inputs are known


class SparseLinear(nn.Linear):
    """``y = x Wᵀ + b`` with a block-sparse ``W`` (n, k): ``x`` (..., k) to (..., n).

    It stays an ``nn.Linear`` for whoever asks. What trains is ``values``, a Parameter (blocks, out, in) in
    the order of torch's BSR layout; ``weight`` is the dense (n, k) matrix made from it on each access,
    differentiable, not a Parameter. Weights that were pruned stay pruned: a zero inside a stored block gets
    no gradient.

    The state dict holds ``values``, ``crow``, ``col`` and ``bias``. A dense checkpoint (``weight``, ``bias``)
    loads too: the pattern is then read from its zeros, in this layer's block.
    """

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
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {ACTIVATIONS}, got {activation!r}")
        nn.Module.__init__(self)  # nn.Linear's would make a dense weight
        self.out_features, self.in_features = weight.shape
        self.activation = activation
        values = weight.values
        if bias is not None and (
            bias.shape != (self.out_features,) or bias.dtype != values.dtype or bias.device != values.device
        ):
            raise ValueError(
                f"bias: expected {values.dtype} ({self.out_features},) on {values.device}, "
                f"got {bias.dtype} {tuple(bias.shape)} on {bias.device}"
            )
        with torch.inference_mode(False):  # a layer made under inference_mode must still train and load
            self.values = nn.Parameter(values.detach().clone())
            crow, col = weight.crow.clone(), weight.col.clone()
            kept = None if kept is None else kept.clone()
        if bias is not None and not isinstance(bias, nn.Parameter):
            bias = nn.Parameter(bias)
        self.register_parameter("bias", bias)
        self.register_buffer("crow", crow)
        self.register_buffer("col", col)
        self.register_buffer("kept", kept, persistent=False)
        self.crow: Tensor
        self.col: Tensor
        self.index: Tensor
        self.kept: Tensor | None
        self._plan(weight)

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
        weight, alive = effective_weight(linear)
        mask = alive if mask is None else mask
        if block is None:
            block = cheapest_block(weight, mask)
        matrix = BlockSparse.from_dense(weight, block, mask)
        layer = cls(matrix, linear.bias, kept=_kept(matrix, mask))
        _carry_attributes(linear, layer)
        layer.values.requires_grad_(any(p.requires_grad for p in _weights(linear)))
        return layer.train(linear.training)

    def to_dense(self) -> nn.Linear:
        """A plain ``nn.Linear`` with the same weight and the same bias Parameter.

        Raises:
            ValueError: this layer has an activation, which a plain one would lose.
        """
        if self.activation is not None:
            raise ValueError(f"a plain nn.Linear has no activation, this layer has {self.activation!r}")
        with torch.device("meta"):
            linear = nn.Linear(self.in_features, self.out_features, bias=False)
        linear.weight = nn.Parameter(self.weight.detach().clone(), self.values.requires_grad)
        linear.bias = self.bias
        return linear.train(self.training)

    @property
    def matrix(self) -> BlockSparse:
        """The weight in its format, over this layer's Parameter; what was pruned inside stored blocks is
        zero."""
        values = self.values if self.kept is None else torch.where(self.kept, self.values, 0)
        return BlockSparse.trusted((self.out_features, self.in_features), self.crow, self.col, values)

    @property
    def mask(self) -> Tensor:
        """bool (n, k): where the weight is alive, zero or not."""
        alive = torch.ones_like(self.values) if self.kept is None else self.kept.to(self.values.dtype)
        shape = (self.out_features, self.in_features)
        return BlockSparse.trusted(shape, self.crow, self.col, alive).to_dense() != 0

    @property
    def block(self) -> tuple[int, int]:
        """``(out, in)``."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The dense weight (n, k), made anew on each access."""
        return self.matrix.to_dense()

    @property
    def sparsity(self) -> float:
        """Share of zeros in the dense weight."""
        return share_of_zeros(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., n)."""
        # Straight from the dictionaries: nn.Module's attribute access costs as much as the op itself.
        parameters, buffers = self._parameters, self._buffers
        kept = buffers["kept"]
        values: Tensor = parameters["values"]  # type: ignore[assignment]  # never None
        if kept is not None:
            values = torch.where(kept, values, 0)
        weight = PackedWeight(
            values,
            parameters["bias"],
            buffers["crow"],  # type: ignore[arg-type]
            buffers["col"],  # type: ignore[arg-type]
            self.index,
            self.out_features,
            self.in_features,
        )
        return linear_packed(x, weight, self.kernel, self.activation)

    def variant(self, rows: int) -> str:
        """What of its kernel runs for so many rows of x, in a word: a kernel may have several for one
        weight."""
        weight = PackedWeight(
            self.values, self.bias, self.crow, self.col, self.index, self.out_features, self.in_features
        )
        return BY_NAME[self.kernel].backend().variant(rows, weight)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, block={self.block}, density={self.matrix.density:.3f}, "
            f"kernel={self.kernel}" + (f", activation={self.activation}" if self.activation else "")
        )

    def reset_parameters(self) -> None:
        """Draws the stored values as ``nn.Linear`` draws its weight; the pattern stays."""
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        with torch.no_grad():
            self.values.uniform_(-bound, bound)
            if self.kept is not None:
                self.values.masked_fill_(~self.kept, 0)
            if self.bias is not None:
                self.bias.uniform_(-bound, bound)

    def _plan(self, weight: BlockSparse) -> None:
        choice = select(problem_of(weight), KERNELS)
        plan = make_plan(weight, choice)
        self.kernel, self.refusals, self.index = plan.kernel.name, plan.refusals, plan.index

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseLinear:
        before = self.values.device, self.values.dtype
        # Indices are moved, whatever `fn` does besides: a cast to a float type and back would round them.
        indices = {name: self._buffers[name] for name in ("crow", "col", "kept")}
        self._buffers.update(dict.fromkeys(indices))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.values.device
        self._buffers.update({name: _moved(buffer, device) for name, buffer in indices.items()})
        if (device, self.values.dtype) != before and before[0].type != "meta":
            self._plan(self.matrix)  # another device or dtype may want another kernel
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the layer that ``restore_`` would put back, and the kernel's own index, made anew: copies
        and files carry the sparse weight only."""
        return {key: value for key, value in vars(self).items() if key not in ("_replaced", "index")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._plan(self.matrix)  # it may have been loaded onto another device

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        dense, stored = state_dict.get(prefix + "weight"), state_dict.get(prefix + "values")
        if dense is not None and stored is None:
            shape = (self.out_features, self.in_features)
            if tuple(dense.shape) != shape:
                raise ValueError(f"{prefix}weight: expected {shape}, got {tuple(dense.shape)}")
            matrix = BlockSparse.from_dense(dense.to(self.values), self.block)
            kept = _kept(matrix, matrix.to_dense() != 0)
        elif stored is not None:
            crow, col = (state_dict.get(prefix + name, getattr(self, name)) for name in ("crow", "col"))
            to = self.values.device
            matrix = BlockSparse(
                (self.out_features, self.in_features),
                self.block,
                crow.to(to),
                col.to(to),
                stored.detach().to(self.values),
            )
            same = torch.equal(matrix.crow, self.crow) and torch.equal(matrix.col, self.col)
            kept = self.kept if same else _kept(matrix, matrix.to_dense() != 0)
        else:
            return super()._load_from_state_dict(state_dict, prefix, *args)
        self._take(matrix, kept)
        rest = {key: value for key, value in state_dict.items() if key != prefix + "weight"}
        rest |= {prefix + "values": self.values, prefix + "crow": self.crow, prefix + "col": self.col}
        super()._load_from_state_dict(rest, prefix, *args)

    def _take(self, matrix: BlockSparse, kept: Tensor | None) -> None:
        """Another weight of the same shape and block. The Parameter stays the same object."""
        self.crow, self.col, self.kept = matrix.crow.clone(), matrix.col.clone(), kept
        with torch.no_grad():
            if self.values.shape == matrix.values.shape:
                self.values.copy_(matrix.values)
            else:
                self.values.data = matrix.values.clone()
                self.values.grad = None  # it belonged to another pattern, as does an optimizer's state
        self._plan(self.matrix)


def _moved(buffer: Tensor | None, device: torch.device) -> Tensor | None:
    if buffer is None or buffer.device == device:
        return buffer
    return torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device)


def problem_of(weight: BlockSparse) -> Problem:
    """The Problem that a weight poses."""
    return _problem(weight.values, weight.shape, weight.block, weight.density)


def _problem(
    values: Tensor,
    shape: tuple[int, int],
    block: tuple[int, int],
    density: float,
    rows: int = TYPICAL_ROWS,
) -> Problem:
    device = values.device.type
    arch, features = "", ()  # type: tuple[str, tuple[str, ...]]
    if device == "cpu":
        from sparsekern.kernels import cpu

        arch, features = cpu.isa(), cpu.features()
    dtype = str(values.dtype).removeprefix("torch.")
    return Problem("linear", device, arch, dtype, block, rows, *shape, density, features)


def expected_cost(weight: Tensor, mask: Tensor, block: tuple[int, int], rows: int = TYPICAL_ROWS) -> float:
    """Expected time of a (n, k) weight in blocks on so many rows, over the best dense time
    (kernels/cost.py)."""
    n, k = weight.shape
    density = float((pool(mask, block) > 0).double().mean())
    problem = _problem(weight, (n, k), block, density, rows)
    return relative_cost(select(problem, KERNELS).kernel.name, problem)


def share_of_zeros(weight: Tensor) -> float:
    """Share of a weight's elements that are zero; 0 if it has none."""
    return 1.0 - int(weight.count_nonzero()) / weight.numel() if weight.numel() else 0.0


def fitting_blocks(weight: Tensor) -> list[tuple[int, int]]:
    """BLOCKS, each clipped to the weight: (16, 1) on 10 outputs is (10, 1)."""
    return list(dict.fromkeys(fit_block(block, weight.shape) for block in BLOCKS))


def cheapest_block(weight: Tensor, mask: Tensor) -> tuple[int, int]:
    """The block of BLOCKS, clipped to the weight, that the cost function expects to be fastest."""
    return min(fitting_blocks(weight), key=lambda block: expected_cost(weight, mask, block))


def effective_weight(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """``(weight, alive)`` of a dense layer, (n, k) and bool (n, k), whoever masked it.

    ``torch.nn.utils.prune`` recomputes ``weight`` in forward only, so its own tensors are asked.
    """
    if hasattr(linear, "weight_orig"):
        mask = cast(Tensor, linear.weight_mask) != 0
        return torch.where(mask, cast(Tensor, linear.weight_orig).detach(), 0), mask
    weight = linear.weight.detach()
    return weight, masks_of(linear).get("weight", weight != 0)


def _kept(matrix: BlockSparse, mask: Tensor) -> Tensor | None:
    """Which stored elements may train; None if all may. What lies beyond a ragged edge is no element."""
    kept = matrix.sample(mask)
    return None if bool((kept == matrix.sample(torch.ones_like(mask))).all()) else kept


def _weights(linear: nn.Linear) -> list[nn.Parameter]:
    return [p for name, p in linear.named_parameters() if name != "bias"]


def _carry_attributes(linear: nn.Linear, layer: SparseLinear) -> None:
    """What users and libraries have hung on the layer goes along."""
    with torch.device("meta"):
        known = vars(nn.Linear(1, 1)).keys() | vars(layer).keys()
    vars(layer).update({key: value for key, value in vars(linear).items() if key not in known})
