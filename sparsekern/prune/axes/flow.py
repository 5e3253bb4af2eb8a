"""The axes of every tensor of a graph, and what the rules of ops share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from sparsekern.prune.axes.spaces import Axis, atoms, fix, fresh, keep_size, refold, size_of, split, tie

Axes = list[Axis]
"""One axis for each dimension of a tensor."""

Given = dict[str, Any]
"""An op's arguments by the names of its schema, defaults included."""

POSITIONS = "its indices are positions"


@dataclass(frozen=True)
class Read:
    """An op in which a weight sums over channels: dimension 1 of `weight` meets dimension `dim` of `x`."""

    node: fx.Node
    x: fx.Node
    weight: fx.Node
    dim: int


@dataclass
class Flow:
    """The axes of every node so far (of several tensors where a node gives several), and who reads what."""

    axes: dict[fx.Node, Any] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)

    def find(self, value: object) -> Axes | None:
        """The axes of an argument; None for what is no tensor."""
        return self.axes.get(value) if isinstance(value, fx.Node) else None

    def of(self, value: object) -> Axes:
        """The axes of an argument that is a tensor."""
        axes = self.find(value)
        assert axes is not None, f"{value} is no tensor"
        return axes

    def tied(self, value: object, axes: Sequence[Axis]) -> None:
        """An argument, if it is there, agrees with these axes."""
        for mine, other in zip(self.find(value) or (), axes, strict=False):
            tie(mine, other)


Rule = Callable[[Flow, fx.Node, Given], Any]
"""Ties what must agree, says what must keep its order or size; returns the axes of what the op gives."""


def shapes_of(node: fx.Node) -> list[tuple[int, ...]]:
    """The shapes of the tensors that a node gives."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    return [tuple(int(size) for size in one.shape) for one in values if isinstance(one, Tensor)]


def gives_several(node: fx.Node) -> bool:
    """Whether a node gives a tuple or list."""
    return isinstance(node.meta.get("val"), tuple | list)


def unknown(flow: Flow, node: fx.Node, given: Given) -> Any:
    """An op without a rule: nothing that it touches may change its order."""
    why = f"{str(node.target).removesuffix('.default')}, an op without a rule, reads or makes it"
    for argument in node.all_input_nodes:
        axes = flow.axes.get(argument) or []
        for axis in (axis for one in axes for axis in (one if isinstance(one, list) else [one])):
            fix(axis, why)
    if not gives_several(node):
        return _new(node.meta.get("val"), why)
    return [_new(value, why) or [] for value in node.meta["val"]]


def _new(value: object, why: str) -> Axes | None:
    return [fresh(int(size), why) for size in value.shape] if isinstance(value, Tensor) else None


def fix_positions(axes: Sequence[Axis]) -> None:
    """Rows and columns of a map, taps of a kernel: neighbours must stay neighbours."""
    for axis in axes:
        fix(axis, POSITIONS)


def new_positions(sizes: Sequence[int]) -> Axes:
    """Dimensions of a new map."""
    return [fresh(size, POSITIONS) for size in sizes]


def factors(axis: Axis, outer: int) -> tuple[Axis, Axis]:
    """An axis as `outer` groups times what is in each; a whole group may be taken out."""
    size = size_of(axis)
    if outer in (1, size):
        return ((), axis) if outer == 1 else (axis, ())
    found = atoms(axis)
    if len(found) > 1:
        groups, members = refold([axis], (outer, size // outer))
        return groups, members
    group, member = split(found[0], outer, sized="")
    keep_size((member,), "each group must keep its number of channels")
    return (group,), (member,)


def some_of(axis: Axis, size: int) -> Axis:
    """Some indices of an axis, by their numbers."""
    fix(axis, "indices of it are picked by their numbers")
    return fresh(size, "its indices were picked by their numbers")


def broadcast(a: Sequence[Axis], b: Sequence[Axis]) -> Axes:
    """The axes of two tensors that are broadcast together, aligned at their last dimensions."""
    longer, shorter = (list(a), list(b)) if len(a) >= len(b) else (list(b), list(a))
    for back in range(1, len(shorter) + 1):
        mine, other = longer[-back], shorter[-back]
        if size_of(mine) == 1:
            longer[-back] = other
        elif size_of(other) != 1:
            tie(mine, other)
    return longer
