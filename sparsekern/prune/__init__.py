"""Pruning: which weights go. Four values and no class tree, and all of them combine:

a score (CRITERIA), a structure (STRUCTURES, `Block`, `NM`, `FanIn`), an allocation (ALLOCATIONS,
`by_layer`) and a schedule (`Constant`, `Geometric`, `Exponential`, `Cubic`).

Block tickets: `suggest_block`, `regroup_`, `permute_`, `compact_`. Of families of their own: `Fista`,
`frozen_step_`, `remove_filters_`, `remove_filters_in_graph_`, `wann`, subnetworks of random networks.
"""

from __future__ import annotations

from sparsekern.prune import wann
from sparsekern.prune.allocate import ALLOCATIONS, output_rates
from sparsekern.prune.api import next_masks, prune_, prune_in_rounds_
from sparsekern.prune.compact import CompactedGroup, CompactReport, compact_
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
from sparsekern.prune.filter_graph import FilterGroup, FilterReport, remove_filters_in_graph_
from sparsekern.prune.filters import channel_counts, choose_filters, l1_norms, remove_filters_
from sparsekern.prune.fista import Fista, fista_iterates, penalised, penalty, soft_threshold
from sparsekern.prune.freeze import frozen_step_
from sparsekern.prune.given import apply_masks_, load_masks
from sparsekern.prune.layers import by_layer
from sparsekern.prune.permute import Group, permutable, permute_, permuted
from sparsekern.prune.proxy import yardstick
from sparsekern.prune.regroup import RegroupedLayer, RegroupReport, regroup_
from sparsekern.prune.rigl import dense_gradients, rigl_step_, update_fraction
from sparsekern.prune.schedule import Constant, Cubic, Exponential, Geometric
from sparsekern.prune.strong import neuron_subnetwork, random_block, subset_sum, weight_subnetwork
from sparsekern.prune.structure import NM, STRUCTURES, Block, FanIn
from sparsekern.prune.suggest import BlockChoice, BlockTable, suggest_block
from sparsekern.prune.units import top_blocks

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "NM",
    "STRUCTURES",
    "Block",
    "BlockChoice",
    "BlockTable",
    "CompactReport",
    "CompactedGroup",
    "Constant",
    "Context",
    "Cubic",
    "Exponential",
    "FanIn",
    "FilterGroup",
    "FilterReport",
    "Fista",
    "Geometric",
    "Group",
    "Movement",
    "RegroupReport",
    "RegroupedLayer",
    "apply_masks_",
    "by_layer",
    "channel_counts",
    "choose_filters",
    "compact_",
    "dense_gradients",
    "edge_popup_",
    "edge_popup_to_masks_",
    "fista_iterates",
    "frozen_step_",
    "gram",
    "l1_norms",
    "layer_inputs",
    "load_masks",
    "neuron_subnetwork",
    "next_masks",
    "obs_update",
    "output_rates",
    "penalised",
    "penalty",
    "permutable",
    "permute_",
    "permuted",
    "popup_scores",
    "prune_",
    "prune_in_rounds_",
    "random_block",
    "regroup_",
    "remove_filters_",
    "remove_filters_in_graph_",
    "rigl_step_",
    "signed_constant_",
    "soft_threshold",
    "sparsegpt_",
    "subset_sum",
    "suggest_block",
    "top_blocks",
    "update_fraction",
    "wann",
    "weight_subnetwork",
    "yardstick",
]
