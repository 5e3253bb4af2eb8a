"""What in a network does not depend on its input, found by running its graph on numbers and question marks.

Every number of every tensor is either known or varies with the input. A sum varies where a weight other than
zero meets a number that varies, so units without live weights, and all that only they feed, come out as
known, through normalisation, activations and pooling. What an op without a rule gives varies. One run costs
two forwards.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from sparsekern.prune.axes import Read, Traced, given, is_move, is_pointwise


@dataclass(frozen=True)
class Value:
    """A tensor of which some numbers are known; the others mean nothing."""

    number: Tensor
    varies: Tensor


@dataclass(frozen=True)
class Reading:
    """What an op reads: `weight` (out, channels, taps), and of its input for each channel whether it is the
    same known number everywhere, which that is, and whether zeros are padded to it."""

    weight: Tensor
    constant: Tensor
    number: Tensor
    padded: bool


def readings(traced: Traced, tensors: Mapping[str, Tensor], reads: Sequence[Read]) -> dict[Read, Reading]:
    """What is known of each weight and its input. A read whose weight varies is left out.

    tensors: parameters and buffers by name. Runs the graph once, without gradients.
    """
    by_node = {read.node: read for read in reads}
    last = {used: node for node in traced.graph.nodes for used in node.all_input_nodes}
    values: dict[fx.Node, Any] = {}
    found = {}
    with torch.no_grad():
        for node in traced.graph.nodes:
            if node.op == "output":
                break
            if node in by_node:
                read = by_node[node]
                x, weight = values[read.x], values[read.weight]
                if not bool(weight.varies.any()):
                    found[read] = _reading(x, weight.number, read.dim, given(node).get("padding", 0))
            values[node] = _value(node, traced, tensors, values)
            for used in node.all_input_nodes:
                if last[used] is node:
                    del values[used]
    return found


def _reading(x: Value, weight: Tensor, dim: int, padding: object) -> Reading:
    channels = x.number.movedim(dim, 0).flatten(1)
    varies = x.varies.movedim(dim, 0).flatten(1).any(dim=1)
    same = (channels == channels[:, :1]).all(dim=1)
    taps = weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]
    return Reading(taps, same & ~varies, channels[:, 0], _pads(padding))


def _pads(padding: object) -> bool:
    """Whether a convolution or pooling with this argument has anything beside its input."""
    return padding != "valid" and any(padding if isinstance(padding, list | tuple) else [padding])


def _value(
    node: fx.Node, traced: Traced, tensors: Mapping[str, Tensor], values: Mapping[fx.Node, Any]
) -> Any:
    """The value of a node: a Value, several, or what is no tensor."""
    meta = node.meta.get("val")
    if node in traced.leaves:
        tensor = tensors[traced.leaves[node][0]].detach()
        return Value(tensor, torch.zeros_like(tensor, dtype=torch.bool))
    if node.op != "call_function":
        return _all_varies(meta)
    if node.target is operator.getitem:
        return values[node.args[0]][node.args[1]]  # type: ignore[index]
    used = [values[argument] for argument in node.all_input_nodes]
    known = all(isinstance(value, Value) and not bool(value.varies.any()) for value in used)
    if known and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return _known(_call(node, values, lambda value: value.number))
    rule = _rule_of(node)
    if rule is None or not all(isinstance(value, Value) for value in used):
        return _all_varies(meta)
    return rule(node, values)


def _call(node: fx.Node, values: Mapping[fx.Node, Any], part: Callable[[Value], Any]) -> Any:
    """The node's op on one part of the values of its arguments."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda used: part(values[used]))
    # What varies need not lie in memory as the numbers do, and a view of it may not exist.
    view = node.target is torch.ops.aten.view.default
    op = cast(Callable[..., Any], torch.ops.aten.reshape.default if view else node.target)
    return op(*args, **kwargs)


def _known(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return [_known(one) for one in result]
    return Value(result, torch.zeros_like(result, dtype=torch.bool)) if isinstance(result, Tensor) else result


def _all_varies(meta: Any) -> Any:
    if isinstance(meta, tuple | list):
        return [_all_varies(one) for one in meta]
    if not isinstance(meta, Tensor):
        return meta
    empty = torch.zeros(tuple(int(size) for size in meta.shape), dtype=meta.dtype, device=meta.device)
    return Value(empty, torch.ones_like(empty, dtype=torch.bool))


# ---- rules for what is known in part


def _broadcast(node: fx.Node, values: Mapping[fx.Node, Any]) -> Value:
    """Element by element: known where all arguments are."""
    number = _call(node, values, lambda value: value.number)
    varies = torch.zeros(number.shape, dtype=torch.bool, device=number.device)
    for used in node.all_input_nodes:
        varies = varies | values[used].varies
    return Value(number, varies)


def _moved(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """The same elements in other places."""
    number = _call(node, values, lambda value: value.number)
    varies = _call(node, values, lambda value: value.varies)
    if isinstance(number, tuple | list):
        return [Value(*pair) for pair in zip(number, varies, strict=True)]
    return Value(number, varies)


def _mixed(node: fx.Node, values: Mapping[fx.Node, Any]) -> Value:
    """Means and maxima over places: known where all of them are."""
    number = _call(node, values, lambda value: value.number)
    beside = "avg_pool" in str(node.target) and _pads(given(node).get("padding", 0))
    return Value(number, _call(node, values, lambda value: _restless(value, beside).to(number.dtype)) > 0)


def _summed(node: fx.Node, values: Mapping[fx.Node, Any]) -> Value:
    """Inputs times weights: a weight of zero takes nothing from what varies."""
    arguments = given(node)
    x, weight, bias = values[arguments["input"]], values[arguments["weight"]], values.get(arguments["bias"])
    number = _call(node, values, lambda value: value.number.masked_fill(value.varies, 0))
    if bool(weight.varies.any()) or (bias is not None and bool(bias.varies.any())):
        return Value(number, torch.ones_like(number, dtype=torch.bool))
    rest = [value for name, value in arguments.items() if name not in ("input", "weight", "bias")]
    op = cast(Callable[..., Tensor], node.target)
    restless = _restless(x, _pads(arguments.get("padding", 0)))
    reached = op(restless.to(number.dtype), (weight.number != 0).to(number.dtype), None, *rest)
    return Value(number, reached > 0)


def _restless(x: Value, beside_zeros: bool) -> Tensor:
    """What makes a sum vary. Beside padded zeros that is all but zero: sums at the border of a map differ
    from those inside, and this map may have no inside where another has."""
    return x.varies | (x.number != 0) if beside_zeros else x.varies


def _normed(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """Batch norm with fixed statistics, channel by channel."""
    x, *others = (values[used] for used in node.all_input_nodes)
    number, *rest = _call(node, values, lambda value: value.number)
    varies = x.varies | torch.tensor(any(bool(other.varies.any()) for other in others))
    return [Value(number, varies), *map(_known, rest)]


_Rule = Callable[[fx.Node, Mapping[fx.Node, Any]], Any]
_RULES: dict[str, _Rule] = {
    f"aten.{name}": rule
    for rule, names in {
        _summed: "linear.default conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default "
        "conv3d.padding",
        _mixed: "mean.default mean.dim amax.default max_pool1d.default max_pool2d.default "
        "max_pool3d.default avg_pool1d.default avg_pool2d.default avg_pool3d.default "
        "adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_avg_pool3d.default "
        "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec pad.default "
        "constant_pad_nd.default",
        _normed: "_native_batch_norm_legit_no_training.default",
    }.items()
    for name in names.split()
}


def _rule_of(node: fx.Node) -> _Rule | None:
    if is_pointwise(node):
        return _broadcast
    return _moved if is_move(node) else _RULES.get(str(node.target))
