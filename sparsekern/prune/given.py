"""Masks that are given: from a dict or a file, made by whatever made them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sparsekern.masks import mask_, masks_of, require_maskable

SUFFIX = "_mask"


def apply_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put masks on the model, by parameter name; returns what is alive of them then.

    masks: such as `masks_of(other_model)` or `load_masks(path)`; bool tensors of the parameters' shapes,
    biases included. Masks already there only shrink. ValueError for a name that the model lacks, a tensor
    that can have no mask, or a mask of another shape or dtype; the model is then as it was.
    """
    places = {}
    for name, mask in masks.items():
        path, _, own = name.rpartition(".")
        try:
            module = model.get_submodule(path)
            require_maskable(module, own)
            _require_fit(mask, getattr(module, own))
        except (AttributeError, ValueError) as error:
            raise ValueError(f"mask {name}: {error}") from error
        places[name] = (module, own)
    present = masks_of(model)
    joined = {
        name: mask.to(present[name].device) & present[name] if name in present else mask
        for name, mask in masks.items()
    }
    for name, (module, own) in places.items():
        mask_(module, joined[name], own)
    return joined


def load_masks(path: str | Path) -> dict[str, Tensor]:
    """The masks in a safetensors file, bool, by parameter name.

    The file holds either masks alone, such as `safetensors.torch.save_file(masks_of(model), path)` writes,
    or a state dict of a model that torch.nn.utils.prune holds, of which "fc1.weight_mask" becomes
    "fc1.weight". ValueError for a file that is no safetensors file, or a mask with values other than 0 and
    1; OSError if it cannot be read.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: a safetensors file of masks is expected: {error}") from error
    suffixed = {name[: -len(SUFFIX)]: value for name, value in tensors.items() if name.endswith(SUFFIX)}
    masks = suffixed or tensors
    for name, mask in masks.items():
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"{path}: mask {name} must hold 0 and 1 only")
    return {name: mask != 0 for name, mask in masks.items()}


def _require_fit(mask: Tensor, weight: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise ValueError(
            f"bool of shape {tuple(weight.shape)} expected, got {mask.dtype} of shape {tuple(mask.shape)}"
        )
