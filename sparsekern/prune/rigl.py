"""RigL: sparse from start to end, with connections that move during training.

Evci et al. 2020, arXiv 1911.11134: every so many iterations, drop the alive weights of smallest magnitude and
grow as many where the dense gradient is largest. The number of connections stays what it is.

    prune_(model, 0.9, "random", scope="erdos-renyi-kernel")
    for iteration, (inputs, targets) in enumerate(batches):
        if iteration % 100 == 0:
            slopes = dense_gradients(model, lambda: loss(model(inputs), targets))
            rigl_step_(model, slopes, update_fraction(iteration, last), optimizer=optimizer)
        else:
            ...  # an ordinary step of the optimizer

Random numbers in place of gradients make it SET (Mocanu et al. 2018, arXiv 1707.04780); `block=FanIn()`
keeps a constant fan-in, as SRigL does without its ablation (Lasby et al. 2024, arXiv 2305.02299).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsekern.masks import mask_, masks_of
from sparsekern.prune.layers import Key, by_layer, pruned_layers
from sparsekern.prune.structure import BlockLike
from sparsekern.prune.units import units_of


def update_fraction(step: int, steps: int, initial: float = 0.3) -> float:
    """The share of the connections to move at `step`: from `initial` down to 0 at `steps`, along a cosine.

    Evci et al. 2020, arXiv 1911.11134. ValueError for a step below 0, steps below 1, or `initial` outside
    [0, 1].
    """
    if step < 0 or steps < 1 or not 0 <= initial <= 1:
        raise ValueError(
            f"0 <= step, 1 <= steps and initial in [0, 1] are expected, got {step!r}, {steps!r}, {initial!r}"
        )
    return initial / 2 * (1 + math.cos(math.pi * min(step, steps) / steps))


def dense_gradients(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The gradients of `loss()` for all masked weights as if nothing were masked, by parameter name.

    Where a weight is dead its own gradient is zero, so this asks for the slope of what the mask lets
    through. `loss` runs the model once, forward, and nothing is left in `.grad`. A weight that it does not
    use gets zeros. ValueError if no layer has a mask.
    """
    masks = masks_of(model)
    layers = {name: layer for name, layer in pruned_layers(model).items() if name in masks}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no masked weight: prune_ is expected first")
    with parametrize.cached(), torch.enable_grad():  # the loss sees the very tensors that are asked about
        seen = {name: cast(Tensor, layer.weight) for name, layer in layers.items()}
        slopes = torch.autograd.grad(loss(), list(seen.values()), materialize_grads=True)
    return dict(zip(seen, slopes, strict=True))


@torch.no_grad()
def rigl_step_(
    model: nn.Module,
    gradients: Mapping[str, Tensor],
    fraction: float,
    block: BlockLike | Mapping[Key, BlockLike] = (1, 1),
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, Tensor]:
    """Move the share `fraction` of the connections of every layer named in `gradients`; returns the new ones.

    gradients: by parameter name, dense, see `dense_gradients`. fraction: in [0, 1], of each layer's alive
    units, rounded down. block: the structure that the masks have, or a mapping (`by_layer`); each layer
    keeps as many units as it has. New connections start at zero; one that is dropped and grown in the same
    step keeps its value. optimizer: its running averages of new connections are set to zero. Returns bool
    tensors, true where a weight was dead and is alive.

    ValueError, before anything is changed, for a fraction outside [0, 1], a name without a mask, a mask
    that is not made of whole units, gradients of another shape or with NaN, or a weight with another
    parametrization besides its mask.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], got {fraction!r}")
    masks, layers = masks_of(model), pruned_layers(model)
    blocks: dict[str, BlockLike] = by_layer(model, block)
    if unknown := gradients.keys() - (masks.keys() & layers.keys()):
        raise ValueError(f"no masked weights {sorted(unknown)}: expected some of {list(masks)}")
    moved = {}
    for name, gradient in gradients.items():
        try:
            _original(layers[name])
            weight = cast(Tensor, layers[name].weight)
            moved[name] = _moved(weight, gradient, blocks[name], masks[name], fraction)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from error
    grown = {name: mask & ~masks[name] for name, mask in moved.items()}
    for name, mask in moved.items():
        hidden = _original(layers[name])
        hidden[grown[name]] = 0
        _forget_(optimizer, hidden, grown[name])
        mask_(layers[name], mask)
    return grown


def _moved(weight: Tensor, gradient: Tensor, block: BlockLike, alive: Tensor, fraction: float) -> Tensor:
    """The mask after one step; the arguments are one layer's."""
    if gradient.shape != weight.shape:
        raise ValueError(
            f"a gradient of shape {tuple(weight.shape)} is expected, got {tuple(gradient.shape)}"
        )
    units = units_of(weight.abs(), block, alive)
    if not torch.equal(replace(units, alive=torch.ones_like(alive)).best(units.living), alive):
        raise ValueError(f"the mask is not made of whole units of {block!r}")
    drop = math.floor(round(fraction * units.living, 6))
    kept = units.best(units.living - drop)
    return kept | units_of(gradient.abs(), block, ~kept).best(drop)


def _original(layer: nn.Module) -> Tensor:
    """The parameter behind the mask."""
    chain = cast(nn.ModuleDict, layer.parametrizations)["weight"]
    if len(cast(nn.ModuleList, chain)) != 1:
        raise ValueError("a weight with a mask and no other parametrization is expected")
    return cast(Tensor, chain.original)


def _forget_(optimizer: torch.optim.Optimizer | None, parameter: Tensor, places: Tensor) -> None:
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value[places] = 0
