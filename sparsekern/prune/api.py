"""Pruning: a score, a structure, an allocation and a schedule, joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from sparsekern.masks import mask_, masks_of, require_maskable
from sparsekern.prune.allocate import share_out
from sparsekern.prune.criteria import CRITERIA, Context
from sparsekern.prune.layers import Key, by_layer, pruned_layers
from sparsekern.prune.schedule import Schedule
from sparsekern.prune.structure import BlockLike, as_structure
from sparsekern.prune.units import Units, units_of


def next_masks(
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    rates: Mapping[str, float],
    block: BlockLike | Mapping[str, BlockLike] = (1, 1),
    criterion: str = "magnitude",
    scope: str = "layer",
    context: Context | None = None,
) -> dict[str, Tensor]:
    """One pruning step: the masks left when the share `rates[name]` of what is alive has been dropped.

    weights: by name; alive: bool masks of their shapes; rates: in [0, 1), and with any scope but "layer"
    only layers of equal rate compete. block: a structure (`sparsekern.prune.structure`), or one by name.
    Counts are exact at ties, the new masks lie within the old ones, and a unit lives or dies as a whole.
    ValueError for an unknown criterion or scope, a bad structure or rate, names that differ, or scores that
    are NaN.
    """
    blocks = blocks_of(weights, alive, rates, block)
    units = scored(weights, alive, blocks, criterion, context or Context())
    wanted = {name: (1 - rates[name]) * int(alive[name].sum()) for name in units}
    kept = share_out(units, wanted, rates, scope)
    return {name: layer.best(kept[name]) for name, layer in units.items()}


def blocks_of(
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    rates: Mapping[str, float],
    block: BlockLike | Mapping[str, BlockLike],
) -> Mapping[str, BlockLike]:
    """The structure of each weight; ValueError for names that differ, and rates outside [0, 1)."""
    blocks = block if isinstance(block, Mapping) else dict.fromkeys(weights, block)
    if not weights.keys() == alive.keys() == rates.keys() == blocks.keys():
        raise ValueError(
            "weights, alive, rates and blocks must have the same names, "
            f"got {list(weights)}, {list(alive)}, {list(rates)}, {list(blocks)}"
        )
    _require_shares("rate", rates)
    return blocks


def prune_(
    model: nn.Module,
    sparsity: float | Mapping[Key, float] = 0.9,
    criterion: str = "magnitude",
    block: BlockLike | Mapping[Key, BlockLike] = (1, 1),
    scope: str = "layer",
    ignore: Sequence[str] = (),
    context: Context | None = None,
) -> dict[str, Tensor]:
    """Prune the weights of linear layers and convolutions in place; returns the masks by parameter name.

    sparsity: the target share of zeros, counted in elements and met as nearly as whole units allow: of each
    layer with `scope="layer"`, of all of them together with the others. criterion, scope: names in CRITERIA
    and ALLOCATIONS. block: (out, in), a name in STRUCTURES, or a structure. Both sparsity and block may
    also be mappings (`by_layer`); layers of different sparsity do not compete. Masks already there only
    shrink. ignore: names of layers to leave alone. context: what the criterion looks at; its model is this
    one if it names none.

    ValueError for an unknown criterion, scope or layer, a sparsity outside [0, 1), a structure that does
    not fit a layer or leaves it without any unit, NaN scores, a weight that is neither a Parameter nor
    parametrized, or what the criterion lacks; the model is then as it was.
    """
    layers = pruned_layers(model, ignore)
    sparsities = by_layer(model, sparsity, ignore)
    _require_shares("sparsity", sparsities)
    for name, layer in layers.items():
        try:
            require_maskable(layer)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from error
    weights = {name: cast(Tensor, layer.weight).detach() for name, layer in layers.items()}
    present = masks_of(model)
    alive = {
        name: present[name] if name in present else torch.ones_like(weight, dtype=torch.bool)
        for name, weight in weights.items()
    }
    context = context or Context()
    if context.model is None:
        context = replace(context, model=model)
    units = scored(weights, alive, by_layer(model, block, ignore), criterion, context)
    wanted = {name: layer.wanted(1 - sparsities[name]) for name, layer in units.items()}
    kept = share_out(units, wanted, sparsities, scope)
    masks = {name: layer.best(kept[name]) for name, layer in units.items()}
    for name, layer in layers.items():
        mask_(layer, masks[name])
    return masks


def prune_in_rounds_(
    model: nn.Module,
    schedule: Schedule | Mapping[Key, Schedule],
    criterion: str = "magnitude",
    block: BlockLike | Mapping[Key, BlockLike] = (1, 1),
    scope: str = "layer",
    ignore: Sequence[str] = (),
    context: Context | None = None,
) -> dict[str, Tensor]:
    """`prune_` to each sparsity of a schedule in turn, without training between; returns the last masks.

    Every round scores the network that the round before it left, as SynFlow needs it (Tanaka et al. 2020,
    arXiv 2006.05467). schedule: one, or a mapping as for `by_layer` of schedules with equally many steps.
    The other arguments, and the errors, are those of `prune_`; an error names the round, and the masks of
    the rounds before it stay.
    """
    schedules = schedule if isinstance(schedule, Mapping) else {nn.Module: schedule}
    lengths = {one.steps for one in schedules.values()}
    if len(lengths) != 1:
        raise ValueError(f"schedules of equally many steps are expected, got {list(schedules.values())}")
    steps = lengths.pop()
    for step in range(1, steps + 1):
        sparsity = {key: one.sparsity(step) for key, one in schedules.items()}
        try:
            masks = prune_(model, sparsity, criterion, block, scope, ignore, context)
        except ValueError as error:
            raise ValueError(f"round {step} of {steps}: {error}") from error
    return masks


def scored(
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    blocks: Mapping[str, BlockLike],
    criterion: str,
    context: Context,
) -> dict[str, Units]:
    """The units of each weight by score, all scored in one step; ValueError naming the layer."""
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}: expected one of {sorted(CRITERIA)}")
    structures = {name: as_structure(block) for name, block in blocks.items()}
    context = replace(context, cache={})
    units = {}
    for name, weight in weights.items():
        try:
            structures[name].cell(weight.shape)  # before the score, which may take long
            scores = CRITERIA[criterion](weight, context.of(name)).to(alive[name].device)
            units[name] = units_of(scores, structures[name], alive[name])
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from error
    return units


def _require_shares(what: str, shares: Mapping[str, float]) -> None:
    for share in shares.values():
        if not 0 <= share < 1:
            raise ValueError(f"{what} must be in [0, 1), got {share!r}")
