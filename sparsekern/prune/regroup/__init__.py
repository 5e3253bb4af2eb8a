"""regroup_: an unstructured ticket in the blocks that kernels want.

Find the ticket weight by weight, then move hidden units so that its weights meet in blocks, keep the blocks
that hold most, and let what is dead inside them live: Structure-LTH (Chen et al., arXiv 2202.04736, sections
3.3 and 5) found this order better than blocks in every round. Rewinding and training come after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsekern.masks import fit_block, mask_, masks_of
from sparsekern.prune.api import next_masks
from sparsekern.prune.axes import Untraceable
from sparsekern.prune.permute import Group, permutable, permute_, permuted
from sparsekern.prune.regroup.report import RegroupedLayer, RegroupReport
from sparsekern.prune.regroup.search import Target, search

__all__ = ["RegroupReport", "RegroupedLayer", "regroup_"]

Block = tuple[int, int]


def regroup_(
    model: nn.Module,
    block: Block | Mapping[str, Block],
    example_inputs: Any = None,
    *,
    sparsity: float | None = None,
    scope: str = "layer",
    permute: bool = True,
    refill: bool = True,
) -> RegroupReport:
    """Turn the masks of a ticket into masks of whole blocks, in place.

    block: that of every masked weight, or of some by parameter name, the others staying as they are.
    sparsity: the share of zeros of each layer, whole blocks counted; the ticket's own by default, so that as
    many weights are computed as before. scope: how layers share what is kept, a name in ALLOCATIONS; with
    any but "layer" the sparsity is that of all of them together. permute: first give hidden units the order
    in which blocks hold most of the ticket's magnitude; it is folded into the neighbouring layers, outputs
    do not change by it. example_inputs, which it needs, are what the model is called with; if it cannot be
    traced nothing moves, and the report says why. refill: dead weights inside chosen blocks live, with the
    values behind their masks; otherwise they stay dead.

    The search costs O(n² · columns) multiplications for a group of n units and the columns of all layers
    that hold it. ValueError, before anything is changed, if nothing is masked, for names or blocks that do
    not fit, a sparsity outside [0, 1) or one that leaves a layer without any block, and for example inputs
    that do not run.
    """
    weights, masks, blocks = _ticket(model, block)
    if permute and example_inputs is None:
        raise ValueError("permute=True traces the model and needs example_inputs; got None")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}")
    scores = {name: torch.where(masks[name], weights[name].abs().float(), 0) for name in blocks}
    shares = {name: float(mask.double().mean()) for name, mask in masks.items()}
    rates = _rates(masks, sparsity, scope)
    before = _choose(scores, blocks, rates, scope)
    groups, notes = _groups(model, example_inputs, tuple(blocks)) if permute else ([], {})
    targets = {name: Target(blocks[name], 1 - rates[name]) for name in blocks}
    order = search(groups, scores, targets)
    scores_after = permuted(scores, order)
    chosen = _choose(scores_after, blocks, rates, scope)
    old = permuted(masks, order)
    permute_(model, order)
    for name, mask in chosen.items():
        layer, _, tensor = name.rpartition(".")
        mask_(model.get_submodule(layer), mask if refill else mask & old[name], tensor)
    return RegroupReport(
        tuple(
            RegroupedLayer(
                name,
                blocks[name],
                shares[name],
                float(chosen[name].double().mean()),
                _share(scores[name], before[name]),
                _share(scores_after[name], chosen[name]),
                notes.get(name, "" if permute else "nothing was moved: permute=False"),
            )
            for name in blocks
        ),
        order,
    )


def _ticket(
    model: nn.Module, block: Block | Mapping[str, Block]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Block]]:
    """Weights, masks and blocks of what is masked and to be regrouped, by parameter name."""
    found = {name: mask.to("cpu", copy=True) for name, mask in masks_of(model).items()}
    masks = {name: mask for name, mask in found.items() if not bool(mask.all())}
    if not masks:
        raise ValueError(f"{type(model).__name__} has no masked weight: prune it first, such as by prune_")
    if isinstance(block, Mapping):
        if unknown := sorted(block.keys() - masks.keys()):
            raise ValueError(f"block: no masked weight {unknown}, expected some of {list(masks)}")
        masks = {name: mask for name, mask in masks.items() if name in block}
    blocks = {
        name: fit_block(block[name] if isinstance(block, Mapping) else block, mask.shape)
        for name, mask in masks.items()
    }
    weights = {}
    for name in masks:
        layer, _, tensor = name.rpartition(".")
        weights[name] = cast(Tensor, getattr(model.get_submodule(layer), tensor)).detach().cpu()
    return weights, masks, blocks


def _rates(masks: Mapping[str, Tensor], sparsity: float | None, scope: str) -> dict[str, float]:
    """The share of each weight that is to be dead."""
    if sparsity is not None:
        return dict.fromkeys(masks, sparsity)
    if scope != "layer":
        alive = sum(int(mask.sum()) for mask in masks.values())
        return dict.fromkeys(masks, 1 - alive / sum(mask.numel() for mask in masks.values()))
    return {name: 1 - float(mask.double().mean()) for name, mask in masks.items()}


def _choose(
    scores: Mapping[str, Tensor], blocks: Mapping[str, Block], rates: Mapping[str, float], scope: str
) -> dict[str, Tensor]:
    """The masks of the best blocks."""
    everything = {name: torch.ones_like(values, dtype=torch.bool) for name, values in scores.items()}
    return next_masks(scores, everything, rates, blocks, "magnitude", scope)


def _share(scores: Tensor, mask: Tensor) -> float:
    total = float(scores.double().sum())
    return float(scores.double()[mask].sum()) / total if total else 0.0


def _groups(
    model: nn.Module, example_inputs: Any, names: Sequence[str]
) -> tuple[list[Group], dict[str, str]]:
    """The groups of the model, and for each weight why rows or columns of it must stay."""
    try:
        groups = permutable(model, example_inputs)
    except Untraceable as error:
        return [], dict.fromkeys(names, f"nothing was moved: {error}")
    notes = {}
    for name in names:
        fixed = {
            member.dim: group.fixed
            for group in groups
            for member in group.members
            if member.name == name and group.fixed
        }
        sides = (("rows", 0), ("columns", 1))
        notes[name] = "; ".join(f"{side} stay: {fixed[dim]}" for side, dim in sides if dim in fixed)
    return groups, notes
