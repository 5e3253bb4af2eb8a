"""SparseLayer: what every layer with a block-sparse weight is, whatever it computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from sparsekern.formats import BlockSparse
from sparsekern.kernels import KERNELS, Problem, make_plan, select
from sparsekern.kernels.cost import relative_cost
from sparsekern.kernels.select import ACTIVATIONS, ConvGeometry
from sparsekern.kernels.triton.launch import BLOCK_SIDES
from sparsekern.masks import as_matrix, as_weight, fit_block, masks_of, pool
from sparsekern.nn.dense_copy import DenseCopy

Block = tuple[int, int]
GPU_BLOCKS = tuple((out, inner) for out in reversed(BLOCK_SIDES) for inner in reversed(BLOCK_SIDES))
"""What ``block=None`` and ``swap_`` consider on a GPU, the largest first: among equals it is the fastest."""

_Self = TypeVar("_Self", bound="SparseLayer")


class SparseLayer(nn.Module):
    """A layer whose weight is kept as a sparse matrix (n, k) of blocks: ``values``, ``crow``, ``col``.

    It comes before the dense layer's class among the bases: ``class SparseLinear(SparseLayer, nn.Linear)``.
    The class says how the weight looks from outside (``_weight_shape``), what a dense layer of its kind is
    (``empty_dense``), and what it computes (``forward``, ``variant``).
    """

    dense_name: ClassVar[str]  # of the class that it stands for
    blocks: ClassVar[tuple[Block, ...]]  # what ``block=None`` and ``swap_`` consider
    typical_rows: ClassVar[int]  # a layer's kernel is chosen before the rows of its inputs are known

    values: Tensor  # a Parameter, but for functional calls
    bias: Tensor | None
    crow: Tensor
    col: Tensor
    kept: Tensor | None
    index: Tensor

    # ---- what a kind of layer adds

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        """Of the dense weight; all but its first dimension together are k."""
        raise NotImplementedError

    def empty_dense(self) -> nn.Module:
        """A dense layer of this kind on the meta device, without a bias."""
        raise NotImplementedError

    @classmethod
    def _around(cls: type[_Self], matrix: BlockSparse, dense: nn.Module, kept: Tensor | None) -> _Self:
        """A layer like ``dense`` that has this weight."""
        raise NotImplementedError

    @classmethod
    def geometry_of(cls, dense: nn.Module) -> ConvGeometry | None:
        """That of a dense layer of this kind; None where there is no such thing."""
        return None

    @classmethod
    def compute(cls, dense: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What ``dense`` would compute of ``x``, had it this weight and bias."""
        raise NotImplementedError

    def variant(self, rows: int) -> str:
        """What of its kernel runs for so many rows of x, in a word."""
        raise NotImplementedError

    # ---- making it, and the way back

    def _hold(
        self, weight: BlockSparse, bias: Tensor | None, kept: Tensor | None, activation: str | None
    ) -> None:
        """Takes copies of the weight's tensors, and ``bias`` itself; chooses the kernel. ValueError if
        ``bias`` has another shape, dtype or device than the weight wants, or the activation is unknown."""
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {ACTIVATIONS}, got {activation!r}")
        self.activation = activation
        n, values = weight.shape[0], weight.values
        if bias is not None and (
            bias.shape != (n,) or bias.dtype != values.dtype or bias.device != values.device
        ):
            raise ValueError(
                f"bias: expected {values.dtype} ({n},) on {values.device}, "
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
        self._plan(weight)

    @classmethod
    def from_layer(
        cls: type[_Self], dense: nn.Module, block: Block | None, mask: Tensor | None = None
    ) -> _Self:
        """``from_dense`` of every kind of layer."""
        weight, alive = effective_weight(dense)
        mask = alive if mask is None else mask
        if mask.shape != weight.shape or mask.dtype is not torch.bool:
            raise ValueError(
                f"expected a bool mask of shape {tuple(weight.shape)}; got {mask.dtype} {tuple(mask.shape)}"
            )
        if block is None:
            block = cls._cheapest_block(dense, weight, mask)
        mask = as_matrix(mask, block)
        matrix = BlockSparse.from_dense(as_matrix(weight, block), block, mask)
        return cls.from_matrix(matrix, dense, _kept(matrix, mask))

    @classmethod
    def from_matrix(cls: type[_Self], matrix: BlockSparse, dense: nn.Module, kept: Tensor | None) -> _Self:
        """A layer in the place of ``dense`` that has this weight; the bias Parameter is shared. ``kept``,
        bool like ``matrix.values``, marks what may train; None is everything."""
        layer = cls._around(matrix, dense, kept)
        _carry_attributes(dense, layer)
        layer.values.requires_grad_(any(p.requires_grad for p in _weights(dense)))
        return layer.train(dense.training)

    @classmethod
    def _cheapest_block(cls, dense: nn.Module, weight: Tensor, mask: Tensor) -> Block:
        """The block, clipped to the weight, that the cost function expects to be fastest."""
        return min(cls.fitting_blocks(weight), key=lambda b: cls.expected_cost(dense, weight, mask, b))

    @classmethod
    def fitting_blocks(cls, weight: Tensor) -> list[Block]:
        """``blocks``, each clipped to the weight: (16, 1) on 10 outputs is (10, 1). On a GPU instead those of
        GPU_BLOCKS that the weight is not smaller than, where there are any."""
        if weight.device.type == "cuda":
            whole = [block for block in GPU_BLOCKS if fit_block(block, weight.shape) == block]
            if whole:
                return whole
        # Pairs of inputs are what instructions for bfloat16 take, and nothing else.
        blocks = [block for block in cls.blocks if block[1] == 1 or weight.dtype is torch.bfloat16]
        return list(dict.fromkeys(fit_block(block, weight.shape) for block in blocks))

    @classmethod
    def expected_cost(
        cls, dense: nn.Module, weight: Tensor, mask: Tensor, block: Block, rows: int | None = None
    ) -> float:
        """Expected time of a weight in blocks on so many rows, over the best dense time
        (kernels/cost.py)."""
        shape = (weight.shape[0], weight[0].numel() if weight.shape[0] else 0)
        density = float((pool(mask, block) > 0).double().mean())
        rows = cls.typical_rows if rows is None else rows
        problem = _problem(weight, shape, block, density, rows, cls.geometry_of(dense))
        return relative_cost(select(problem, KERNELS).kernel.name, problem)

    def dense_without_activation(self) -> nn.Module:
        """A plain layer with the same weight and the same bias Parameter."""
        dense = self.empty_dense()
        dense.weight = nn.Parameter(self.weight.detach().clone(), self.values.requires_grad)
        dense.register_parameter("bias", cast("nn.Parameter | None", self.bias))
        return dense.train(self.training)

    def _refuse_activation(self) -> None:
        if self.activation is not None:
            raise ValueError(
                f"a plain nn.{self.dense_name} has no activation, this layer has {self.activation!r}"
            )

    # ---- its weight

    @property
    def _matrix_shape(self) -> tuple[int, int]:
        n, *rest = self._weight_shape
        return n, math.prod(rest)

    @property
    def matrix(self) -> BlockSparse:
        """The weight (n, k) in its format, over this layer's Parameter; what was pruned inside stored blocks
        is zero."""
        return BlockSparse.trusted(self._matrix_shape, self.crow, self.col, self._alive_values())

    def _alive_values(self) -> Tensor:
        # Straight from the dictionaries: nn.Module's attribute access costs as much as a small layer's op.
        values: Tensor = self._parameters["values"]  # type: ignore[assignment]  # never None
        kept = self._buffers["kept"]
        return values if kept is None else torch.where(kept, values, 0)

    @property
    def mask(self) -> Tensor:
        """bool of the dense weight's shape: where the weight is alive, zero or not."""
        alive = torch.ones_like(self.values) if self.kept is None else self.kept.to(self.values.dtype)
        dense = BlockSparse.trusted(self._matrix_shape, self.crow, self.col, alive).to_dense() != 0
        return as_weight(dense, self._weight_shape, self.block)

    @property
    def block(self) -> Block:
        """``(out, in)``."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew on each access; whoever writes into it gets a ValueError."""
        return as_weight(self.matrix.to_dense(), self._weight_shape, self.block).as_subclass(DenseCopy)

    @property
    def weight_nbytes(self) -> int:
        """Bytes that the weight takes in memory: its values, their places, what of them may train, and the
        kernel's own index; not what a backward pass keeps (kernels/transposed.py)."""
        held = (self.values, self.crow, self.col, self.kept, self.index)
        return sum(t.numel() * t.element_size() for t in held if t is not None)

    @property
    def sparsity(self) -> float:
        """Share of zeros in the dense weight."""
        return share_of_zeros(self.weight)

    def reset_parameters(self) -> None:
        """Draws the stored values as the dense layer draws its weight; the pattern stays."""
        k = self._matrix_shape[1]
        bound = 1 / math.sqrt(k) if k else 0.0
        with torch.no_grad():
            self.values.uniform_(-bound, bound)
            if self.kept is not None:
                self.values.masked_fill_(~self.kept, 0)
            if self.bias is not None:
                self.bias.uniform_(-bound, bound)

    def _sparse_repr(self) -> str:
        return f"block={self.block}, density={self.matrix.density:.3f}, kernel={self.kernel}" + (
            f", activation={self.activation}" if self.activation else ""
        )

    # ---- its kernel; copies, moves, checkpoints

    def _plan(self, weight: BlockSparse) -> None:
        geometry = self.geometry_of(self)
        plan = make_plan(weight, select(problem_of(weight, geometry, self.typical_rows), KERNELS), geometry)
        self.kernel, self.refusals, self.index = plan.kernel.name, plan.refusals, plan.index

    def _apply(self: _Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Self:
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
        dense = state_dict.get(prefix + "weight")
        parts = {name: getattr(self, name).detach() for name in ("values", "crow", "col")}
        given = [name for name in parts if prefix + name in state_dict]
        if self.values.is_meta:
            raise ValueError(
                f"{prefix}values: expected numbers to write over, got the meta device: call to_empty first"
            )
        if dense is not None and "values" not in given:
            if tuple(dense.shape) != self._weight_shape:
                raise ValueError(f"{prefix}weight: expected {self._weight_shape}, got {tuple(dense.shape)}")
            matrix = BlockSparse.from_dense(as_matrix(dense.to(self.values), self.block), self.block)
            kept, given = _kept(matrix, matrix.to_dense() != 0), [*parts]
        elif given:  # one of them is enough to lead a kernel astray
            parts |= {name: state_dict[prefix + name].detach().to(self.values.device) for name in given}
            parts["values"] = parts["values"].to(self.values.dtype)
            matrix = BlockSparse(self._matrix_shape, self.block, **parts)
            same = torch.equal(matrix.crow, self.crow) and torch.equal(matrix.col, self.col)
            kept = self.kept if same else _kept(matrix, matrix.to_dense() != 0)
        else:
            return super()._load_from_state_dict(state_dict, prefix, *args)
        self._take(matrix, kept)
        rest = {key: value for key, value in state_dict.items() if key != prefix + "weight"}
        rest |= {prefix + name: getattr(self, name) for name in given}
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


# ---- weights and problems


def problem_of(weight: BlockSparse, geometry: ConvGeometry | None = None, rows: int = 1) -> Problem:
    """The Problem that a weight poses on so many rows."""
    return _problem(weight.values, weight.shape, weight.block, weight.density, rows, geometry)


def _problem(
    values: Tensor,
    shape: tuple[int, int],
    block: Block,
    density: float,
    rows: int,
    geometry: ConvGeometry | None,
) -> Problem:
    device = values.device.type
    arch, features = "", ()  # type: tuple[str, tuple[str, ...]]
    if device == "cpu":
        from sparsekern.kernels import cpu

        arch, features = cpu.isa(), cpu.features()
    elif device == "cuda":
        arch = "sm_{}{}".format(*torch.cuda.get_device_capability(values.device))
        features = ("triton",) if find_spec("triton") else ()
    dtype = str(values.dtype).removeprefix("torch.")
    if geometry is None:
        return Problem("linear", device, arch, dtype, block, rows, *shape, density, features)
    of_conv = (geometry.groups, geometry.kh * geometry.kw)
    return Problem("conv2d", device, arch, dtype, block, rows, *shape, density, features, *of_conv)


def share_of_zeros(weight: Tensor) -> float:
    """Share of a weight's elements that are zero; 0 if it has none."""
    return 1.0 - int(weight.count_nonzero()) / weight.numel() if weight.numel() else 0.0


def effective_weight(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """``(weight, alive)`` of a dense layer, both of its weight's shape and ``alive`` bool, whoever masked it.

    ``torch.nn.utils.prune`` recomputes ``weight`` in forward only, so its own tensors are asked.
    """
    if hasattr(layer, "weight_orig"):
        mask = cast(Tensor, layer.weight_mask) != 0
        return torch.where(mask, cast(Tensor, layer.weight_orig).detach(), 0), mask
    weight = cast(Tensor, layer.weight).detach()
    return weight, masks_of(layer).get("weight", weight != 0)


def _kept(matrix: BlockSparse, mask: Tensor) -> Tensor | None:
    """Which stored elements may train; None if all may. What lies beyond a ragged edge is no element."""
    kept = matrix.sample(mask)
    return None if bool((kept == matrix.sample(torch.ones_like(mask))).all()) else kept


def _moved(buffer: Tensor | None, device: torch.device) -> Tensor | None:
    if buffer is None or buffer.device == device:
        return buffer
    return torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device)


def _weights(dense: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in dense.named_parameters() if name != "bias"]


def _carry_attributes(dense: nn.Module, layer: SparseLayer) -> None:
    """What users and libraries have hung on the layer goes along."""
    known = vars(layer.empty_dense()).keys() | vars(layer).keys()
    vars(layer).update({key: value for key, value in vars(dense).items() if key not in known})
