"""Which weights are pruned, and one value for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn

from sparsekern.masks import maskable

Value = TypeVar("Value")
Key = str | type[nn.Module]


def pruned_layers(model: nn.Module, ignore: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The layers to prune, by the name of their weight; ValueError if `ignore` names no layer, or all."""
    layers = maskable(model)
    if unknown := set(ignore) - layers.keys():
        raise ValueError(f"ignore: unknown layers {sorted(unknown)}, expected some of {list(layers)}")
    kept = {_weight(name): layer for name, layer in layers.items() if name not in ignore}
    if not kept:
        raise ValueError(f"{type(model).__name__} has no nn.Linear, nn.Conv1d or nn.Conv2d to prune")
    return kept


def by_layer(
    model: nn.Module, value: Value | Mapping[Key, Value], ignore: Sequence[str] = ()
) -> dict[str, Value]:
    """The value for each weight of `pruned_layers`, by parameter name, such as "fc1.weight".

    value: one for all, or a mapping whose keys are parameter names, "output" for the last layer in the
    model's order, or classes of layers. Of several keys that fit, the name comes first, then "output", then
    the classes in the mapping's order. So the rates of Frankle & Carbin 2019 (arXiv 1803.03635, figure 2)
    for Conv-6 are `by_layer(model, {nn.Conv2d: 0.15, nn.Linear: 0.2, "output": 0.1})`, for `next_masks`.
    ignore: names of layers to leave out. ValueError for a name that no weight has, or a layer that no key
    fits.
    """
    layers = pruned_layers(model, ignore)
    if not isinstance(value, Mapping):
        return dict.fromkeys(layers, value)
    names = [_weight(name) for name in maskable(model)]
    if unknown := {key for key in value if isinstance(key, str)} - {*names, "output"}:
        raise ValueError(f"unknown layers {sorted(unknown)}: expected some of {[*names, 'output']}")
    found = {}
    for name, layer in layers.items():
        kinds = [key for key in value if isinstance(key, type) and isinstance(layer, key)]
        keys: list[Key] = [name, *(["output"] if name == names[-1] else []), *kinds]
        fitting = [value[key] for key in keys if key in value]
        if not fitting:
            raise ValueError(
                f"layer {name}: a value for its name, its class or one of {[*names, 'output']} is expected, "
                f"got {list(value)}"
            )
        found[name] = fitting[0]
    return found


def _weight(layer: str) -> str:
    """The parameter name of a layer's weight."""
    return f"{layer}.weight" if layer else "weight"
