"""Rules of ops that compute."""

from __future__ import annotations

from torch import fx

from sparsekern.prune.axes.flow import (
    Axes,
    Flow,
    Given,
    Read,
    Rule,
    broadcast,
    factors,
    fix_positions,
    gives_several,
    new_positions,
    shapes_of,
    unknown,
)
from sparsekern.prune.axes.spaces import Axis, fix, fresh, keep_size, size_of, tie

_NORMED = "a norm takes the mean over it"


def elementwise(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Dimensions that are broadcast together agree."""
    axes: Axes = [()] * len(shapes_of(node)[0])
    for value in given.values():
        axes = broadcast(axes, flow.find(value) or [])
    return axes


def linear(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """(…, in) times (out, in) to (…, out)."""
    x, weight = flow.of(given["input"]), flow.of(given["weight"])
    if len(weight) != 2:
        return unknown(flow, node, given)  # type: ignore[no-any-return]
    tie(x[-1], weight[1])
    flow.tied(given["bias"], weight[:1])
    flow.reads.append(Read(node, given["input"], given["weight"], -1))
    return [*x[:-1], weight[0]]


def convolution(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """(…, in, positions) with (out, in of a group, taps) to (…, out, positions).

    Groups are an outer factor of in and of out: whole groups may change places, and channels within them.
    """
    x, weight, groups = flow.of(given["input"]), flow.of(given["weight"]), given["groups"]
    at = 1 - len(weight)  # the dimension of the channels
    fix_positions(x[at + 1 :] + weight[2:])
    if groups == 1:
        tie(x[at], weight[1])
        flow.reads.append(Read(node, given["input"], given["weight"], at))
    else:
        keep_size(weight[1], "each group must keep its number of channels")
        tie(x[at], factors(weight[0], groups)[0] + weight[1])
    flow.tied(given["bias"], weight[:1])
    return [*x[:at], weight[0], *new_positions(shapes_of(node)[0][at + 1 :])]


def convolution_transposed(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """(…, in, positions) with (in, out of a group, taps) to (…, out, positions)."""
    x, weight, groups = flow.of(given["input"]), flow.of(given["weight"]), given["groups"]
    at = 1 - len(weight)
    fix_positions(x[at + 1 :] + weight[2:])
    tie(x[at], weight[0])
    out = factors(weight[0], groups)[0] + weight[1]
    for axis in (weight[0], weight[1]):
        keep_size(axis, "a transposed convolution reads or makes it")
    flow.tied(given["bias"], [out])
    return [*x[:at], out, *new_positions(shapes_of(node)[0][at + 1 :])]


def matmul(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """(…, n, k) times (…, k, m), vectors and broadcast batches included: the last two tensors are multiplied,
    and one before them is added."""
    *added, a, b = [axes for axes in map(flow.find, given.values()) if axes is not None]
    inner = b[-2] if len(b) > 1 else b[0]
    tie(a[-1], inner)
    keep_size(inner, "a product of two activations sums over it")
    out = [*broadcast(a[:-2], b[:-2]), *a[-2:-1], *(b[-1:] if len(b) > 1 else [])]
    for axes in added:
        out = broadcast(out, axes)
    return out


def einsum(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Dimensions of one letter agree. With dots, or without an arrow, it is an unknown op."""
    left, _, right = given["equation"].replace(" ", "").partition("->")
    if "." in left or not right:
        return unknown(flow, node, given)  # type: ignore[no-any-return]
    letters: dict[str, Axis] = {}
    for term, value in zip(left.split(","), given["tensors"], strict=True):
        for letter, axis in zip(term, flow.of(value), strict=True):
            if size_of(axis) != 1:
                tie(letters.setdefault(letter, axis), axis)
    for axis in letters.values():
        keep_size(axis, "einsum reads it")
    return [letters.get(letter, ()) for letter in right]


def attention(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Queries (…, l, e), keys (…, s, e) and values (…, s, v) to (…, l, v): what is multiplied agrees."""
    query, key, value = (flow.of(given[name]) for name in ("query", "key", "value"))
    if given["enable_gqa"]:
        return unknown(flow, node, given)  # type: ignore[no-any-return]
    tie(query[-1], key[-1])
    tie(key[-2], value[-2])
    batch = broadcast(broadcast(query[:-2], key[:-2]), value[:-2])
    for axis in (query[-1], key[-2], value[-1], *batch):
        keep_size(axis, "it is a head of an attention, or within one")
    broadcast([*batch, query[-2], key[-2]], flow.find(given["attn_mask"]) or [])
    return [*batch, query[-2], value[-1]]


def batch_norm(flow: Flow, node: fx.Node, given: Given) -> Axes | list[Axes]:
    """Each channel by itself, with numbers of its own."""
    x = flow.of(given["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        flow.tied(given[name], x[1:2])
    if not gives_several(node):
        return x
    return [x, *([fresh(size) for size in shape] for shape in shapes_of(node)[1:])]


def group_norm(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Groups of channels by themselves: groups may change places, and channels within them."""
    x = flow.of(given["input"])
    for axis in factors(x[1], given["num_groups"]):
        keep_size(axis, _NORMED)
    for name in ("weight", "bias"):
        flow.tied(given[name], x[1:2])
    return x


def layer_norm(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """The last dimensions together: their order does not matter, their number does."""
    x = flow.of(given["input"])
    normed = x[len(x) - len(given["normalized_shape"]) :]
    for name in ("weight", "bias"):
        flow.tied(given.get(name), normed)
    for axis in normed:
        keep_size(axis, _NORMED)
    return x


def softmax(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """The order of what is summed over does not matter, its number does."""
    x = flow.of(given["self"])
    keep_size(x[given["dim"]], "a softmax sums over it")
    return x


def reduction(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """A sum, mean, largest or norm over some dimensions, whatever their order."""
    x, dims = flow.of(given["self"]), given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or range(len(x))
    gone = {dim % len(x) for dim in dims if x}
    for dim in gone:
        keep_size(x[dim], "a reduction goes over it")
    left: Axes = [()] if given.get("keepdim") else []
    return [axis for dim, kept in enumerate(x) for axis in (left if dim in gone else [kept])]


def spatial(dims: int) -> Rule:
    """Pooling or resizing of the last `dims` dimensions; channels before them are taken one by one."""

    def rule(flow: Flow, node: fx.Node, given: Given) -> Axes | list[Axes]:
        x = flow.of(given["self"] if "self" in given else given["input"])
        fix_positions(x[-dims:])
        found = [[*x[:-dims], *new_positions(shape[-dims:])] for shape in shapes_of(node)]
        return found if gives_several(node) else found[0]

    return rule


def prelu(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """One slope for each channel, or one for all."""
    x, weight = flow.of(given["self"]), flow.of(given["weight"])
    if weight and size_of(weight[0]) != 1:
        tie(x[1] if len(x) > 1 else x[0], weight[0])
    return x


def embedding(flow: Flow, node: fx.Node, given: Given) -> Axes:
    """Rows of a table by their number."""
    weight = flow.of(given["weight"])
    fix(weight[0], "rows of it are looked up by their number")
    return [*flow.of(given["indices"]), weight[1]]
