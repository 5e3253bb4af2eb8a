"""The search for an order of every group of hidden units: one group at a time, all layers that it touches at
once.

Rows of a layer want neighbours with the same columns, as high as a block is; columns of the layers that read
them want neighbours with the same rows, as wide as a block is. Both are clusterings of the same units.
Blocks of one column leave the order of columns free, so every group is ordered once; wider blocks tie
neighbouring groups, which are ordered in turns, as gyro-permutation (arXiv 2407.20496) alternates
between outputs and inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekern.masks import pool
from sparsekern.prune.permute import Group, Member, permuted
from sparsekern.prune.regroup.cluster import Face, cluster

_SWEEPS = 4


@dataclass(frozen=True)
class Target:
    """The blocks that a layer is to have, fitted to its shape, and the share of them that is to be kept."""

    block: tuple[int, int]
    density: float


def search(
    groups: Sequence[Group], scores: Mapping[str, Tensor], targets: Mapping[str, Target]
) -> dict[Group, Tensor]:
    """An order for each group that gains by it, in which `worth` is the highest that was found.

    scores: not negative, of the weights' shapes, by the names in the groups' members; targets by the same
    names.
    """
    useful = [group for group in groups if not group.fixed and _matters(group, scores, targets)]
    wide = any(target.block[1] > 1 for target in targets.values())
    now, order = dict(scores), dict[Group, Tensor]()
    best, found = worth(now, targets), order
    for sweep in range(_SWEEPS if wide else 1):
        # Of columns in no order yet whole blocks say little: in the first sweep rows are compared one column
        # at a time, and columns one row at a time, and what they give need not be better yet.
        apart = wide and sweep == 0
        for group in useful:
            new = _arranged(group, now, targets, apart)
            touched = {member.name: now[member.name] for member in group.members if member.name in targets}
            moved = permuted(touched, {group: new})
            if apart or worth(moved, targets) > worth(touched, targets):
                now |= moved
                order = {**order, group: order[group].gather(-1, new) if group in order else new}
        total = worth(now, targets)
        if total > best:
            best, found = total, order
        elif not apart:
            break
    return found


def worth(scores: Mapping[str, Tensor], targets: Mapping[str, Target]) -> float:
    """The share of its score that each layer keeps in its best blocks, summed over the layers."""
    return sum(_kept_share(values, targets[name]) for name, values in scores.items())


def _kept_share(scores: Tensor, target: Target) -> float:
    blocks = pool(scores, target.block).flatten()
    total = float(blocks.sum())
    kept = min(max(round(target.density * blocks.numel()), 1), blocks.numel())
    return float(blocks.topk(kept).values.sum()) / total if total else 0.0


def _arranged(
    group: Group, scores: Mapping[str, Tensor], targets: Mapping[str, Target], apart: bool
) -> Tensor:
    """A new order of a group, (size,) or (orders, size)."""
    tables = []
    for table in range(group.orders):
        faces = [
            _face(member, table, scores[member.name], targets[member.name], apart)
            for member in group.members
            if member.name in targets
        ]
        tables.append(_nested([face for face in faces if face is not None], group.size))
    return tables[0] if group.orders == 1 else torch.stack(tables)


def _nested(faces: Sequence[tuple[Face, int]], units: int) -> Tensor:
    """Clusters of the lowest blocks first, which then are clustered whole into higher ones."""
    order, size = torch.arange(units), 1
    for height in sorted({height for _, height in faces}):
        if height % size == 0:
            whole = order[: units // size * size]
            sums = [
                Face(face.scores[whole].reshape(units // size, size, -1).sum(dim=1), face.density)
                for face, own in faces
                if own >= height
            ]
            by_cluster = whole.reshape(-1, size)[cluster(sums, height // size)]
            order, size = torch.cat([by_cluster.flatten(), order[len(whole) :]]), height
    return order


def _matters(group: Group, scores: Mapping[str, Tensor], targets: Mapping[str, Target]) -> bool:
    """Whether any tensor's blocks depend on the order of the group."""
    members = [member for member in group.members if member.name in targets]
    heights = [_height(member, scores[member.name], targets[member.name])[0] for member in members]
    return any(1 < height < group.size for height in heights)


def _height(member: Member, scores: Tensor, target: Target) -> tuple[int, int]:
    """How many units stand in one block, and how many neighbouring rows or columns of the matrix are one's.

    0 units where a block does not hold whole ones, as 16 columns of a convolution with 9 taps.
    """
    if member.dim > 1:
        return 0, 1
    side, taps = target.block[member.dim], scores[0, 0].numel() if member.dim else 1
    strides = member.stride[member.unit >= 0]
    apart = int(strides[0]) * taps
    alike = bool((strides == strides[0]).all()) and side % apart == 0
    return (side // apart if alike else 0), apart


def _face(member: Member, table: int, scores: Tensor, target: Target, apart: bool) -> tuple[Face, int] | None:
    """The scores of each unit of a group in one tensor, pooled over the other side of blocks unless `apart`;
    and how many units stand in one block. None where their order does not matter."""
    height, neighbours = _height(member, scores, target)
    if height < 2:
        return None
    high, wide = target.block
    matrix = pool(scores, (1, 1) if apart else (high, 1) if member.dim else (1, wide)).float()
    lines = matrix.T if member.dim else matrix
    places = ((member.table == table) & (member.unit >= 0)).nonzero().flatten()
    places = places[member.unit[places].argsort(stable=True)]
    units = int(member.unit.max()) + 1
    # (units, copies, neighbours, columns): neighbours are in one block with each other, copies are not
    of_units = lines.reshape(len(member.unit), -1, lines.shape[1])[places]
    of_units = of_units.reshape(units, -1, neighbours, lines.shape[1]).sum(dim=2).reshape(units, -1)
    total = scores.sum().clamp(min=torch.finfo(torch.float32).tiny)
    return Face(of_units / total, target.density), height
