"""Which rule an op has, and the walk through a graph. A new op is one line."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from sparsekern.prune.axes import moves, rules
from sparsekern.prune.axes.flow import Axes, Flow, Given, Rule, shapes_of, unknown
from sparsekern.prune.axes.spaces import Axis, fix, fresh, meet
from sparsekern.prune.axes.trace import Traced

_RULES: dict[Rule, str] = {
    rules.elementwise: "_to_copy.default alias.default detach.default dropout.default hardswish.default "
    "lift_fresh_copy.default rsub.Tensor to.dtype where.Scalar where.ScalarOther where.ScalarSelf",
    rules.linear: "linear.default",
    rules.convolution: "conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default "
    "conv3d.padding",
    rules.convolution_transposed: "conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input",
    rules.matmul: "matmul.default mm.default bmm.default addmm.default baddbmm.default",
    rules.einsum: "einsum.default",
    rules.attention: "scaled_dot_product_attention.default",
    rules.batch_norm: "batch_norm.default _native_batch_norm_legit_no_training.default instance_norm.default",
    rules.group_norm: "group_norm.default",
    rules.layer_norm: "layer_norm.default rms_norm.default",
    rules.softmax: "softmax.int log_softmax.int _softmax.default _log_softmax.default",
    rules.reduction: "mean.default mean.dim sum.default sum.dim_IntList amax.default amin.default "
    "logsumexp.default linalg_vector_norm.default var.correction var.dim std.correction std.dim",
    rules.spatial(1): "max_pool1d.default avg_pool1d.default adaptive_avg_pool1d.default "
    "upsample_nearest1d.vec upsample_linear1d.vec",
    rules.spatial(2): "max_pool2d.default max_pool2d_with_indices.default avg_pool2d.default "
    "adaptive_avg_pool2d.default adaptive_max_pool2d.default upsample_nearest2d.vec upsample_bilinear2d.vec "
    "upsample_bicubic2d.vec",
    rules.spatial(3): "max_pool3d.default avg_pool3d.default adaptive_avg_pool3d.default "
    "upsample_nearest3d.vec upsample_trilinear3d.vec",
    rules.prelu: "prelu.default",
    rules.embedding: "embedding.default",
    moves.reshaped: "view.default reshape.default _unsafe_view.default flatten.using_ints unflatten.int "
    "squeeze.default squeeze.dim squeeze.dims unsqueeze.default",
    moves.permuted: "permute.default",
    moves.transposed: "transpose.int",
    moves.expanded: "expand.default",
    moves.same_everywhere: "zeros.default ones.default full.default zeros_like.default ones_like.default "
    "full_like.default new_zeros.default new_ones.default new_full.default scalar_tensor.default",
    moves.padded: "pad.default constant_pad_nd.default",
    moves.concatenated: "cat.default",
    moves.stacked: "stack.default",
    moves.selected: "select.int",
    moves.unbound: "unbind.int",
    moves.sliced: "slice.Tensor",
    moves.cut: "split.Tensor split_with_sizes.default chunk.default",
    moves.glu: "glu.default",
}
RULES: dict[str, Rule] = {f"aten.{name}": rule for rule, names in _RULES.items() for name in names.split()}
"""The rule of each op. What torch tags as pointwise needs no line."""

_MOVES = {
    moves.reshaped,
    moves.permuted,
    moves.transposed,
    moves.expanded,
    moves.concatenated,
    moves.stacked,
    moves.selected,
    moves.unbound,
    moves.sliced,
    moves.cut,
}
_CHECKS = {"aten._assert_tensor_metadata.default", "aten._assert_async.msg", "aten._assert_scalar.default"}


def flow_of(traced: Traced) -> Flow:
    """The axes of every node of a graph: O(nodes · factors of their axes)."""
    flow = Flow()
    leaves: dict[tuple[str, ...], Axes] = {}
    for node in traced.graph.nodes:
        if node.op == "output":
            for axis in _read_by(flow, node):
                fix(axis, "the model returns it")
        elif node.op == "call_function":
            axes = _called(flow, node)
            if axes is not None:
                flow.axes[node] = axes
        elif node in traced.leaves:
            new = [fresh(size) for size in shapes_of(node)[0]]
            flow.axes[node] = leaves.setdefault(traced.leaves[node], new)
        else:
            for shape in shapes_of(node):
                flow.axes[node] = [fresh(size, "it is an input of the model") for size in shape]
    return flow


def _called(flow: Flow, node: fx.Node) -> Any:
    """The axes of what a call gives; None if that is no tensor."""
    if node.target is operator.getitem:
        parent, index = node.args
        return flow.axes[parent][index]  # type: ignore[index]
    if str(node.target) in _CHECKS:
        return None
    computes_alone = is_pointwise(node) and len(node.all_input_nodes) == 1
    if not is_move(node) and not computes_alone:
        for axis in _read_by(flow, node):
            meet(axis)
    rule = rules.elementwise if is_pointwise(node) else RULES.get(str(node.target), unknown)
    return rule(flow, node, given(node))


def _read_by(flow: Flow, node: fx.Node) -> list[Axis]:
    return [axis for value in node.all_input_nodes for axis in flow.find(value) or []]


def given(node: fx.Node) -> Given:
    """The arguments of an op by the names of its schema, defaults included; nothing for other calls."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    arguments = node.target._schema.arguments
    values: dict[str, Any] = {argument.name: argument.default_value for argument in arguments}
    values.update(zip(values, node.args, strict=False))
    return values | dict(node.kwargs)


def is_pointwise(node: fx.Node) -> bool:
    """Whether an op computes each element by itself and gives one tensor."""
    tags = getattr(node.target, "tags", ())
    tagged = torch.Tag.pointwise in tags and len(shapes_of(node)) == 1
    return tagged or RULES.get(str(node.target)) is rules.elementwise


def is_move(node: fx.Node) -> bool:
    """Whether an op gives elements that it was given, in other places or several times."""
    return RULES.get(str(node.target)) in _MOVES
