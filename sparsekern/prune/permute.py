"""Permutations of hidden units that leave a network's outputs as they are, and cost nothing at run time.

A hidden unit has no place of its own: when rows of one layer change places, the columns of the layers that
read them, and every bias and statistic between, change places with them. Which dimensions must move together
follows from a trace of the network (`sparsekern.prune.axes`): additions tie branches, flattening repeats a
channel's move over its positions, heads of an attention move whole and each has an order of its own inside.
Pool & Yu 2021 (Channel Permutations for N:M Sparsity, NeurIPS) fold permutations into neighbouring layers for
2:4 sparsity, Lin et al. (arXiv 2105.14713) for 1xN blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.prune.axes import (
    POSITIONS,
    Axis,
    Flow,
    Space,
    Traced,
    atoms,
    fix,
    flow_of,
    plain,
    root,
    size_of,
    trace,
)


@dataclass(frozen=True, eq=False)
class Member:
    """Where a group's indices stand in one dimension of one tensor.

    Position p holds index `unit[p]` of the group, none if that is -1; the position of another index is
    `stride[p]` times their difference away. `table[p]` says which of the group's orders rules at p.
    """

    name: str
    dim: int
    unit: Tensor
    stride: Tensor
    table: Tensor

    def moved(self, tensor: Tensor, order: Tensor) -> Tensor:
        """The tensor with its indices in another order, (orders, size); ValueError for another size."""
        if tensor.shape[self.dim] != len(self.unit):
            raise ValueError(
                f"{self.name}: {len(self.unit)} indices expected in dimension {self.dim}, "
                f"got shape {tuple(tensor.shape)}"
            )
        source = torch.arange(len(self.unit))
        inside = self.unit >= 0
        unit, table = self.unit[inside], self.table[inside]
        source[inside] += (order[table, unit] - unit) * self.stride[inside]
        return tensor.index_select(self.dim, source.to(tensor.device))


@dataclass(frozen=True, eq=False)
class Group:
    """Indices of tensors that must change places together.

    name: the tensor and the dimension where they come first, such as "fc1.weight[0]". size: how many indices.
    orders: how many orders they have, one for each head of an attention, else 1. fixed: why they must stay as
    they are, empty if they need not.
    """

    name: str
    size: int
    orders: int
    members: tuple[Member, ...] = field(repr=False)
    fixed: str

    def __str__(self) -> str:
        places = ", ".join(dict.fromkeys(f"{member.name}[{member.dim}]" for member in self.members))
        head = f"{self.size} indices" + (f" in {self.orders} orders" if self.orders > 1 else "")
        return f"{head} of {places}" + (f": fixed, {self.fixed}" if self.fixed else "")


Order = Mapping[Group, Tensor]
"""What moves where: place i gets what was at `order[group][i]`. int64 (size,), or (orders, size)."""


def permutable(model: nn.Module, example_inputs: Any) -> list[Group]:
    """The groups of indices of the model's parameters and buffers that move together, fixed ones included.

    example_inputs: what the model is called with, a tensor, a tuple of arguments or a dict of keyword
    arguments. Its forward is traced in eval mode, O(ops): what it does with other sizes must be the same,
    and what it does in training mode only is not seen. ValueError if the model does not run on them or
    cannot be traced (`sparsekern.prune.axes.Untraceable`), with the reason.
    """
    traced = trace(model, example_inputs)
    return list(groups_by_space(traced, flow_of(traced)).values())


def permute_(model: nn.Module, order: Order) -> None:
    """Give the groups of `permutable(model, …)` another order, in place, one group after another.

    Masks, buffers and the values behind masks move along; outputs differ by rounding only, as sums are made
    in another order. What an optimizer remembers does not move: make it afterwards. ValueError, before
    anything is changed, for a group that is fixed or is not of this model, and for what is no permutation.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor.detach() for name, tensor in tensors.items()}
    here = {plain(name) for name in state}
    for group in order:
        if not any(member.name in here for member in group.members):
            raise ValueError(f"group {group.name} is not of this model, which has none of its tensors")
    moved = permuted(state, order)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if moved[name] is not state[name]:
                tensor.copy_(moved[name])


def permuted(state: Mapping[str, Tensor], order: Order) -> dict[str, Tensor]:
    """A state dict as `permute_` would leave it, such as that of the weights to rewind to.

    Names may be those of the model with or without our masks; tensors that do not move are the same objects.
    ValueError as for `permute_`, and for a tensor of another size.
    """
    moved = dict(state)
    for group, given in order.items():
        table = _checked(group, given)
        members = {(member.name, member.dim): member for member in group.members}
        for name in moved:
            for dim in range(moved[name].dim()):
                member = members.get((plain(name), dim))
                if member is not None:
                    moved[name] = member.moved(moved[name], table)
    return moved


def _checked(group: Group, order: Tensor) -> Tensor:
    """The permutation as (orders, size); ValueError if it is none or the group must stay."""
    if group.fixed:
        raise ValueError(f"group {group.name} must keep its order: {group.fixed}")
    shape = (group.size,) if group.orders == 1 else (group.orders, group.size)
    if tuple(order.shape) != shape or order.dtype != torch.int64:
        raise ValueError(
            f"group {group.name}: a permutation of shape {shape} in int64 is expected, "
            f"got {order.dtype} of shape {tuple(order.shape)}"
        )
    table = order.reshape(group.orders, group.size).cpu()
    if not torch.equal(table.sort(dim=1).values, torch.arange(group.size).expand_as(table)):
        raise ValueError(f"group {group.name}: each of 0 … {group.size - 1} is expected once, got {order}")
    return table


# ---- groups


def groups_by_space(traced: Traced, flow: Flow) -> dict[Space, Group]:
    """The group of each space that tensors of the model are made of. Dimensions of positions, such as the
    taps of a kernel, are left out."""
    # matrices first: a group goes by the name of the weight that makes its units
    nodes = sorted(traced.leaves, key=lambda node: len(flow.of(node)) < 2)
    leaves = [(traced.leaves[node], dim, axis) for node in nodes for dim, axis in enumerate(flow.of(node))]
    for _, _, axis in leaves:
        if _repeats(axis):
            fix(axis, "the same indices appear twice in one dimension")
    outer = _outer_spaces(flow, [axis for _, _, axis in leaves])
    members: dict[Space, dict[tuple[str, int], Member]] = {}
    for names, dim, axis in leaves:
        found = places(axis)
        for space, (unit, stride) in found.items():
            table = found[outer[space]][0] if space in outer else torch.zeros_like(unit)
            for name in map(plain, names):  # a mask stands where its weight stands
                member = Member(name, dim, unit, stride, table)
                members.setdefault(space, {}).setdefault((name, dim), member)
    return {
        space: Group(
            name="{}[{}]".format(*next(iter(own))),
            size=space.size,
            orders=outer[space].size if space in outer else 1,
            members=tuple(own.values()),
            fixed=space.fixed,
        )
        for space, own in members.items()
        if space.fixed != POSITIONS
    }


def places(axis: Axis) -> dict[Space, tuple[Tensor, Tensor]]:
    """Where the atoms of an axis stand in it.

    For each its index at every position, -1 for none, and how far apart neighbours are.
    """
    position, found = torch.arange(size_of(axis)), {}
    inner = len(position)
    for space in atoms(axis):
        inner //= space.size
        index = position // inner % space.size
        if not space.pieces:
            found[space] = index, torch.full_like(index, inner)
        start = 0
        for piece in space.pieces:
            size = size_of(piece)
            inside = (index >= start) & (index < start + size)
            for part, (unit, stride) in places(piece).items():
                whole, far = found.get(part, (torch.full_like(index, -1), torch.zeros_like(index)))
                local = (index - start)[inside]
                whole = whole.masked_scatter(inside, unit[local])
                found[part] = whole, far.masked_scatter(inside, stride[local] * inner)
            start += size
    return found


def _together(axis: Axis) -> list[set[Space]]:
    """What stands together at the positions of an axis: a set for each choice among pieces."""
    found: list[set[Space]] = [set()]
    for space in atoms(axis):
        choices = [one for piece in space.pieces for one in _together(piece)] or [{space}]
        found = [left | right for left in found for right in choices]
    return found


def _repeats(axis: Axis) -> bool:
    """Whether two factors of an axis, or of a piece in it, have a space in common."""
    parts = [set().union(*_together((space,))) for space in atoms(axis)]
    twice = len(set().union(*parts)) < sum(map(len, parts))
    return twice or any(_repeats(piece) for space in atoms(axis) for piece in space.pieces)


def _outer_spaces(flow: Flow, leaves: list[Axis]) -> dict[Space, Space]:
    """The spaces that may have an order of their own for each index of another, with the innermost such.

    So it is where nothing sees the inner index without the outer one, as in attention: the scores of a head
    sum over its own queries and keys alone. Tensors of the model must have both in one dimension.
    """
    seen = [one for axis in leaves for one in _together(axis)]
    for axes in flow.axes.values():
        for tensor in axes if axes and isinstance(axes[0], list) else [axes]:
            choices = [_together(axis) for axis in tensor]
            always = [set.intersection(*one) for one in choices]
            for dim, sets in enumerate(choices):
                others = set().union(*always[:dim], *always[dim + 1 :])
                seen += [one | others for one in sets]
    candidates: dict[Space, list[Space]] = {}
    for spaces in seen:
        for space in spaces:
            known = candidates.get(space)
            known = list(dict.fromkeys(map(root, space.within))) if known is None else known
            candidates[space] = [outer for outer in known if outer in spaces]
    return {space: found[-1] for space, found in candidates.items() if found}
