"""Pruning: which weights go. Four values and no class tree, and all of them combine:

a score (CRITERIA), a structure (STRUCTURES, `Block`, `NM`, `FanIn`), an allocation (ALLOCATIONS,
`by_layer`) and a schedule (`Constant`, `Geometric`, `Exponential`, `Cubic`).
"""

from __future__ import annotations

from sparsekern.prune.allocate import ALLOCATIONS, output_rates
from sparsekern.prune.api import next_masks, prune_, prune_in_rounds_
from sparsekern.prune.criteria import (
    CRITERIA,
    Context,
    Movement,
    edge_popup_,
    edge_popup_to_masks_,
    gram,
    layer_inputs,
    obs_update,
    popup_scores,
    signed_constant_,
    sparsegpt_,
)
from sparsekern.prune.given import apply_masks_, load_masks
from sparsekern.prune.layers import by_layer
from sparsekern.prune.rigl import dense_gradients, rigl_step_, update_fraction
from sparsekern.prune.schedule import Constant, Cubic, Exponential, Geometric
from sparsekern.prune.structure import NM, STRUCTURES, Block, FanIn
from sparsekern.prune.units import top_blocks

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "NM",
    "STRUCTURES",
    "Block",
    "Constant",
    "Context",
    "Cubic",
    "Exponential",
    "FanIn",
    "Geometric",
    "Movement",
    "apply_masks_",
    "by_layer",
    "dense_gradients",
    "edge_popup_",
    "edge_popup_to_masks_",
    "gram",
    "layer_inputs",
    "load_masks",
    "next_masks",
    "obs_update",
    "output_rates",
    "popup_scores",
    "prune_",
    "prune_in_rounds_",
    "rigl_step_",
    "signed_constant_",
    "sparsegpt_",
    "top_blocks",
    "update_fraction",
]
