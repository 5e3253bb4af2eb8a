"""Masks of torch.nn.utils.prune, in and out.

That module keeps `<name>_orig` and `<name>_mask` and recomputes `<name>` before each call. Both ways keep the
values behind the mask, so a round trip is exact.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsekern.masks.masked import mask_, masks_of, unmask_


def _pruned_names(module: nn.Module) -> list[str]:
    """The names of the module's own tensors that torch.nn.utils.prune holds."""
    hooks = module._forward_pre_hooks.values()
    return [hook._tensor_name for hook in hooks if isinstance(hook, prune.BasePruningMethod)]


def from_torch_prune_(model: nn.Module) -> dict[str, Tensor]:
    """Turn every mask of torch.nn.utils.prune on the model into one of ours; returns `masks_of(model)`.

    ValueError, before anything is changed, for a mask with values other than 0 and 1.
    """
    found = [
        (
            module,
            name,
            cast(Tensor, getattr(module, f"{name}_orig")),
            cast(Tensor, getattr(module, f"{name}_mask")),
        )
        for module in model.modules()
        for name in _pruned_names(module)
    ]
    for module, name, _, mask in found:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"{type(module).__name__}.{name}_mask must hold 0 and 1 only")
    for module, name, original, mask in found:
        values = original.detach().clone()
        alive = mask != 0
        prune.remove(module, name)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            getattr(module, name).copy_(values)
        mask_(module, alive, name)
    return masks_of(model)


def to_torch_prune_(model: nn.Module) -> None:
    """Turn every mask of ours on the model into one of torch.nn.utils.prune (its `custom_from_mask`)."""
    masks = {name: mask.clone() for name, mask in masks_of(model).items()}
    unmask_(model, keep=False)
    for full_name, mask in masks.items():
        path, _, name = full_name.rpartition(".")
        prune.custom_from_mask(model.get_submodule(path), name, mask)  # type: ignore[no-untyped-call]
