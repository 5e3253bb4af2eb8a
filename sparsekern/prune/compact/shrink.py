"""Taking units out of a model's tensors and layers, in place, and putting everything back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from sparsekern.masks import mask_, masks_of
from sparsekern.prune.axes import plain
from sparsekern.prune.compact.dead import Additions
from sparsekern.prune.permute import Group

Undo = list[Callable[[], object]]
"""What puts a model back, to be called from the last to the first."""


def shrink_(model: nn.Module, alive: Mapping[Group, Tensor], additions: Additions) -> Undo:
    """Keep of each group the units alive, bool (size,), after the layers have taken over `additions`.

    Parameters stay the same objects with other data; a layer without a bias gets one where something is
    added.
    """
    undo: Undo = []
    kept = _kept(alive)
    for (name, channel), added in additions.weight.items():
        _add_to_weight_(model.get_submodule(name), channel, added, undo)
    for name, added in additions.bias.items():
        _add_to_bias_(model.get_submodule(name), added, undo)
        outputs = kept.get((f"{name}.weight" if name else "weight", 0))
        if outputs is not None:
            kept[f"{name}.bias" if name else "bias", 0] = outputs
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        data = tensor.data
        for dim in range(tensor.dim()):
            if (plain(name), dim) in kept:
                data = data.index_select(dim, kept[plain(name), dim].nonzero().flatten().to(data.device))
        if data.shape != tensor.shape:
            undo.append(partial(_set_, tensor, tensor.data, tensor.grad))
            _set_(tensor, data, None)
    for module in model.modules():
        _update_sizes_(module, undo)
    return undo


def _kept(alive: Mapping[Group, Tensor]) -> dict[tuple[str, int], Tensor]:
    """Which indices are left of each dimension that something is taken out of."""
    kept: dict[tuple[str, int], Tensor] = {}
    for group, units in alive.items():
        for member in group.members if not bool(units.all()) else ():
            left = units[member.unit.clamp(min=0)] | (member.unit < 0)
            place = (member.name, member.dim)
            kept[place] = kept[place] & left if place in kept else left
    return kept


def _set_(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    tensor.grad = None
    tensor.data = data
    tensor.grad = grad


def _add_to_bias_(layer: nn.Module, added: Tensor, undo: Undo) -> None:
    bias = layer._parameters["bias"]
    if bias is None:
        weight = cast(Tensor, layer.weight)
        layer.bias = nn.Parameter(added.to(weight.device, weight.dtype))
        undo.append(partial(setattr, layer, "bias", None))
    else:
        undo.append(partial(_set_, bias, bias.data, bias.grad))
        bias.data = (bias.data.double() + added.to(bias.device)).to(bias.dtype)


def _add_to_weight_(layer: nn.Module, channel: int, added: Tensor, undo: Undo) -> None:
    """Add (out, taps) to what a layer does with a channel. Behind a mask, what it makes alive was zero."""
    effective, mask = cast(Tensor, layer.weight).detach(), masks_of(layer).get("weight")
    hidden = "weight" if mask is None else "parametrizations.weight.original"
    behind = layer.get_parameter(hidden)
    undo.append(partial(_set_, behind, behind.data, behind.grad))
    sums = effective[:, channel].double() + added.reshape(effective[:, channel].shape).to(effective.device)
    data = behind.data.clone()
    touched = sums != 0
    data[:, channel] = torch.where(touched, sums.to(data.dtype), data[:, channel])
    behind.data = data
    if mask is not None:
        undo.append(partial(mask_, layer, mask.clone()))
        mask[:, channel] |= touched


def _update_sizes_(module: nn.Module, undo: Undo) -> None:
    """A layer's own numbers, from the shapes that its tensors have now."""
    for name, size in _sizes(module).items():
        if getattr(module, name) != size:
            undo.append(partial(setattr, module, name, getattr(module, name)))
            setattr(module, name, size)


def _sizes(module: nn.Module) -> dict[str, int]:
    if isinstance(module, nn.modules.batchnorm._NormBase):
        tensor = module.running_mean if module.running_mean is not None else module.weight
        return {} if tensor is None else {"num_features": len(tensor)}
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.PReLU | nn.Embedding):
        return {}
    shape = module.weight.shape
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": shape[1]}
    each = module.out_channels // module.groups  # groups go as a whole
    groups = shape[0] // each if module.groups > 1 else 1
    return {"out_channels": shape[0], "in_channels": shape[1] * groups, "groups": groups}
