"""What the files of tickets, rounds and progress have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sparsekern.bench.tensor_files import digest, field, pack, read, unpack, write

__all__ = [
    "digest",
    "field",
    "group",
    "mismatch",
    "pack",
    "read",
    "ungroup",
    "unpack",
    "unpack_masks",
    "write",
]


def group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors named `prefix/…`, without the prefix."""
    start = f"{prefix}/"
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def ungroup(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names `prefix/…`: the way back from `group`."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def mismatch(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """In words, the first difference in names or shapes between two states; None if they are alike."""
    if found.keys() != expected.keys():
        return f"tensors {sorted(expected)} expected, got {sorted(found)}"
    for name, value in expected.items():
        if found[name].shape != value.shape:
            return f"{name} of shape {tuple(value.shape)} expected, got {tuple(found[name].shape)}"
    return None


def unpack_masks(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The masks among the tensors of a file, each of the shape of the weight of its name in `state`."""
    masks = group(tensors, "mask")
    if unknown := masks.keys() - state.keys():
        raise ValueError(f"{path}: masks {sorted(unknown)} have no weight; expected some of {sorted(state)}")
    return {name: unpack(packed, state[name].shape, f"{path}: mask {name}") for name, packed in masks.items()}
