"""Pruning: which weights go. Four values and no class tree:

a score (CRITERIA), a structure (`block`), an allocation (ALLOCATIONS, `scope`) and a schedule (`Geometric`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from sparsekern.masks import fit_block, mask_, maskable, masks_of, pool, require_maskable
from sparsekern.prune.allocate import ALLOCATIONS, output_rates
from sparsekern.prune.criteria import CRITERIA, Context
from sparsekern.prune.schedule import Geometric
from sparsekern.prune.structure import block_scores, top_blocks

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "Context",
    "Geometric",
    "next_masks",
    "output_rates",
    "prune_",
    "top_blocks",
]

_Entry = TypeVar("_Entry")


def _lookup(table: Mapping[str, _Entry], key: str, what: str) -> _Entry:
    if key not in table:
        raise ValueError(f"unknown {what} {key!r}: expected one of {sorted(table)}")
    return table[key]


def next_masks(
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    rates: Mapping[str, float],
    block: Sequence[int] = (1, 1),
    criterion: str = "magnitude",
    scope: str = "layer",
    context: Context | None = None,
) -> dict[str, Tensor]:
    """One pruning step: the masks left when the share `rates[name]` of what is alive has been dropped.

    weights: by name; alive: bool masks of their shapes; rates: in [0, 1). Counts are exact at ties, the new
    masks lie within the old ones, and a block lives or dies as a whole. ValueError for an unknown criterion
    or scope, a bad block or rate, names that differ, or scores that are NaN.
    """
    score = _lookup(CRITERIA, criterion, "criterion")
    allocate = _lookup(ALLOCATIONS, scope, "scope")
    if not weights.keys() == alive.keys() == rates.keys():
        raise ValueError(
            "weights, alive and rates must have the same names, "
            f"got {list(weights)}, {list(alive)}, {list(rates)}"
        )
    context = context or Context()
    scores = {name: score(weight, context).to(alive[name].device) for name, weight in weights.items()}
    for name, values in scores.items():
        if bool(values.isnan().any()):
            raise ValueError(f"layer {name}: {criterion} scores must be numbers, got NaN")
    kept = allocate(
        {name: block_scores(values, block) for name, values in scores.items()},
        {name: pool(mask, block) for name, mask in alive.items()},
        rates,
    )
    return {name: top_blocks(values, block, kept[name], alive[name]) for name, values in scores.items()}


def prune_(
    model: nn.Module,
    sparsity: float = 0.9,
    criterion: str = "magnitude",
    block: Sequence[int] = (1, 1),
    scope: str = "layer",
    ignore: Sequence[str] = (),
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Prune nn.Linear and nn.Conv2d weights of `model` in place; returns the masks by parameter name.

    sparsity: the target share of zeros, counted in elements and met as nearly as whole blocks allow; of each
    layer with `scope="layer"`, of all of them together with `scope="global"`. Masks already there only
    shrink. ignore: names of layers to leave alone. generator: for `criterion="random"`. ValueError for an
    unknown criterion or scope, a sparsity outside [0, 1), a block that is not two positive ints or leaves a
    layer without any block, unknown names in `ignore`, NaN scores, or a weight that is neither a Parameter
    nor parametrized; the model is then as it was.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}")
    layers = maskable(model)
    if unknown := set(ignore) - layers.keys():
        raise ValueError(f"ignore: unknown layers {sorted(unknown)}, expected some of {list(layers)}")
    targets = {f"{name}.weight" if name else "weight": layers[name] for name in layers if name not in ignore}
    if not targets:
        raise ValueError(f"{type(model).__name__} has no nn.Linear or nn.Conv2d to prune")
    for name, layer in targets.items():
        try:
            require_maskable(layer)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from error
    weights = {name: cast(Tensor, layer.weight).detach() for name, layer in targets.items()}
    present = masks_of(model)
    alive = {
        name: present[name] if name in present else torch.ones_like(weight, dtype=torch.bool)
        for name, weight in weights.items()
    }
    for weight in weights.values():
        fit_block(block, weight.shape)
    rates = _rates_to_reach(sparsity, alive, scope)
    masks = next_masks(weights, alive, rates, block, criterion, scope, Context(generator))
    for name, layer in targets.items():
        mask_(layer, masks[name])
    return masks


def _rates_to_reach(sparsity: float, alive: Mapping[str, Tensor], scope: str) -> dict[str, float]:
    """The share of what is alive that must go for the sparsity wanted; 0 where it is reached already."""

    def rate(masks: Sequence[Tensor]) -> float:
        total = sum(mask.numel() for mask in masks)
        living = sum(int(mask.sum()) for mask in masks)
        return max(0.0, 1 - (1 - sparsity) * total / living) if living else 0.0

    if scope == "global":
        return dict.fromkeys(alive, rate(list(alive.values())))
    return {name: rate([mask]) for name, mask in alive.items()}
