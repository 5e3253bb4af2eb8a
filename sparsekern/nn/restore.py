"""restore_: the dense layers come back, with what was learned meanwhile."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, fx, nn

from sparsekern.masks import mask_
from sparsekern.nn import layout, pretrained
from sparsekern.nn.conv import Conv
from sparsekern.nn.layer import SparseLayer, effective_weight


def restore_(model: nn.Module) -> int:
    """Puts back every layer that ``swap_`` replaced, the very same objects; returns how many. Images lie in
    the network as they come again.

    Values that were trained meanwhile are written into the layer that comes back. A sparse layer that was
    made by hand, copied or loaded, or into which ``fuse_`` folded another, knows no such layer: it becomes a
    plain one with the same weight. Where it has an activation, an ``nn.Sequential`` of the dense layer and
    the activation takes its place.

    Raises:
        ValueError: ``model`` is a sparse layer itself, or one in it is called with a residual, as ``fuse_``
            makes graphs do: plain layers take none. Nothing is changed then.
    """
    _refuse_residuals(model)
    if isinstance(model, SparseLayer):
        raise ValueError(
            f"restore_ replaces layers inside a module; got a bare {type(model).__name__}: use its to_dense"
        )
    found: dict[SparseLayer, nn.Module] = {}
    for parent in list(model.modules()):
        layout.forget_(parent)
        pretrained.forget_(parent)
        for name, child in list(parent._modules.items()):
            if isinstance(child, SparseLayer):
                found[child] = parent._modules[name] = found[child] if child in found else _restored(child)
    return len(found)


def _refuse_residuals(model: nn.Module) -> None:
    for graph in (module for module in model.modules() if isinstance(module, fx.GraphModule)):
        modules = dict(graph.named_modules())
        for node in graph.graph.nodes:
            layer = modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(layer, SparseLayer) and (len(node.args) > 1 or node.kwargs):
                raise ValueError(
                    f"{node.target} is called with a residual, which an nn.{layer.dense_name} does not take; "
                    "expected restore_ before fuse_, or a copy from before it"
                )


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def _restored(sparse: SparseLayer) -> nn.Module:
    dense = _original(sparse)
    if sparse.activation is None:
        return dense
    return nn.Sequential(dense, _ACTIVATIONS[sparse.activation]()).train(sparse.training)


def _original(sparse: SparseLayer) -> nn.Module:
    original = cast("nn.Linear | Conv | None", sparse.__dict__.get("_replaced"))
    if original is None:
        return sparse.dense_without_activation()
    if original.weight.device != sparse.values.device or original.weight.dtype != sparse.values.dtype:
        original.to(sparse.values)
    weight, alive = sparse.weight.detach(), sparse.mask
    before, before_alive = effective_weight(original)
    with torch.no_grad():
        if not _equal(weight, before) or bool((alive & ~before_alive).any()):
            _assign(original, weight, alive)
        if original.bias is not sparse.bias and original.bias is not None and sparse.bias is not None:
            original.bias.copy_(sparse.bias)
    for name, parameter in original.named_parameters():
        if name != "bias":
            parameter.requires_grad_(sparse.values.requires_grad)
    return original.train(sparse.training)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether all numbers are the same; NaN is the same as NaN."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _assign(layer: nn.Linear | Conv, weight: Tensor, alive: Tensor) -> None:
    """Writes a weight, and what of it is alive into the layer's own mask if it has one."""
    if hasattr(layer, "parametrizations"):
        mask_(layer, alive)
        layer.weight = weight  # behind the mask, through Masked.right_inverse
    elif hasattr(layer, "weight_orig"):
        cast(Tensor, layer.weight_mask).copy_(alive)
        cast(Tensor, layer.weight_orig).copy_(weight)
        layer.weight = weight  # torch.nn.utils.prune makes it anew in forward only
    else:
        layer.weight.copy_(weight)
