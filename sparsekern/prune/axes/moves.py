"""Rules of ops that compute nothing: reshapes, other orders of dimensions, pieces, concatenations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from sparsekern.prune.axes.flow import (
    Axes,
    Flow,
    Given,
    broadcast,
    fix_positions,
    new_positions,
    shapes_of,
    some_of,
    unknown,
)
from sparsekern.prune.axes.spaces import Axis, fresh, pick, piece, refold, size_of, strung, tie


def reshaped(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """The same elements in the same order, in other dimensions."""
    return refold(flow.of(given["self"]), shapes_of(node)[0])


def permuted(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Dimensions in another order."""
    return [flow.of(given["self"])[dim] for dim in given["dims"]]


def transposed(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Two dimensions change places."""
    axes = list(flow.of(given["self"]))
    a, b = given["dim0"], given["dim1"]
    axes[a], axes[b] = axes[b], axes[a]
    return axes


def expanded(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Dimensions of one index repeat what they hold: any order of the copies is the same."""
    return broadcast([fresh(size) for size in shapes_of(node)[0]], flow.of(given["self"]))


def same_everywhere(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """New numbers that do not depend on their place, such as zeros."""
    return [fresh(size) for size in shapes_of(node)[0]]


def padded(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Dimensions that are padded are positions."""
    axes, pad, shape = list(flow.of(given["self"])), given["pad"], shapes_of(node)[0]
    for back in range(1, len(pad) // 2 + 1):
        if pad[2 * back - 2] or pad[2 * back - 1]:
            fix_positions(axes[-back:][:1])
            axes[-back] = new_positions([shape[-back]])[0]
    return axes


def concatenated(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Tensors one after another in a dimension; the other dimensions agree."""
    tensors = [flow.of(value) for value in given["tensors"]]
    if len({len(axes) for axes in tensors}) != 1:
        return unknown(flow, node, given)  # type: ignore[no-any-return]
    dim = given["dim"] % len(tensors[0])
    out = _agreeing(tensors, besides=dim)
    out[dim] = strung([axes[dim] for axes in tensors])
    return out


def stacked(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Tensors in the places of a new dimension."""
    out = _agreeing([flow.of(value) for value in given["tensors"]])
    out.insert(given["dim"] % (len(out) + 1), fresh(len(given["tensors"]), "tensors are stacked in it"))
    return out


def selected(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """One index of a dimension."""
    return pick(flow.of(given["self"]), given["dim"], given["index"])


def unbound(flow: Flow, node: fx.Node, given: Given) -> list[Axes]:
    """Each index of a dimension by itself."""
    axes = flow.of(given["self"])
    return [pick(axes, given["dim"], index) for index in range(len(shapes_of(node)))]


def sliced(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """A range of a dimension. One of several equal pieces, such as the queries of a projection to queries,
    keys and values, is free to have an order of its own."""
    axes, dim = list(flow.of(given["self"])), given["dim"]
    whole, left = size_of(axes[dim]), shapes_of(node)[0][dim]
    start = given["start"] or 0
    start = max(start + whole, 0) if start < 0 else start
    if left != whole:
        equal = given["step"] == 1 and left > 0 and whole % left == 0 and start % left == 0
        axes[dim] = piece(axes[dim], left, start // left) if equal else some_of(axes[dim], left)
    return axes


def cut(flow: Flow, node: fx.Node, given: Given) -> list[Axes]:
    """A dimension cut into several."""
    axes, dim = flow.of(given["self"]), given["dim"]
    sizes = [shape[dim] for shape in shapes_of(node)]
    found = []
    for index, size in enumerate(sizes):
        one = list(axes)
        one[dim] = piece(axes[dim], size, index) if len(set(sizes)) == 1 else some_of(axes[dim], size)
        found.append(one)
    return found


def glu(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """One half of a dimension gates the other."""
    axes, dim = list(flow.of(given["self"])), given["dim"]
    half = size_of(axes[dim]) // 2
    gated, gate = piece(axes[dim], half, 0), piece(axes[dim], half, 1)
    tie(gated, gate)
    axes[dim] = gated
    return axes


def _agreeing(tensors: Sequence[Axes], besides: int | None = None) -> Axes:
    for axes in tensors[1:]:
        for dim, (mine, other) in enumerate(zip(tensors[0], axes, strict=True)):
            if dim != besides:
                tie(mine, other)
    out: list[Axis] = list(tensors[0])
    return out
