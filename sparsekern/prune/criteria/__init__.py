"""Criteria: `score(weight, context)` says how much each weight is worth; the lowest go first.

A criterion returns a finite float32 tensor of the weight's shape. Most scores are not negative; those of
"grasp", "obd" and "movement" are signed, as in their papers: a negative one says that the network is better
without the weight. What a criterion needs besides the weight it takes from the Context,
and says so in a ValueError where it is missing. A new one is one file and one line in CRITERIA.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparsekern.prune.criteria import (
    batchnorm,
    edge_popup,
    fisher,
    grasp,
    magnitude,
    magnitude_l2,
    movement,
    obd,
    obd_hutchinson,
    random,
    snip,
    sparsegpt,
    synflow,
    taylor,
    wanda,
)
from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.edge_popup import (
    edge_popup_,
    edge_popup_to_masks_,
    popup_scores,
    signed_constant_,
)
from sparsekern.prune.criteria.inputs import layer_inputs
from sparsekern.prune.criteria.movement import Movement
from sparsekern.prune.criteria.obs import gram, obs_update, sparsegpt_

Criterion = Callable[[Tensor, Context], Tensor]

CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude.score,
    "magnitude-l2": magnitude_l2.score,
    "random": random.score,
    "batchnorm": batchnorm.score,
    "snip": snip.score,
    "taylor": taylor.score,
    "grasp": grasp.score,
    "synflow": synflow.score,
    "fisher": fisher.score,
    "obd": obd.score,
    "obd-hutchinson": obd_hutchinson.score,
    "wanda": wanda.score,
    "sparsegpt": sparsegpt.score,
    "movement": movement.score,
    "edge-popup": edge_popup.score,
}

__all__ = [
    "CRITERIA",
    "Context",
    "Criterion",
    "Movement",
    "edge_popup_",
    "edge_popup_to_masks_",
    "gram",
    "layer_inputs",
    "obs_update",
    "popup_scores",
    "signed_constant_",
    "sparsegpt_",
]
