"""Masks: the arithmetic of blocks, and how a mask lives on a layer.

A mask is a bool tensor of the weight's own shape, True where the weight is alive. Every granularity is one
rectangle, `block = (out, in)`; see `sparsekern.masks.blocks`.
"""

from __future__ import annotations

from sparsekern.masks.blocks import as_matrix, as_weight, expand, fit_block, grid, pool
from sparsekern.masks.masked import (
    Masked,
    dense_state,
    mask_,
    maskable,
    masks_of,
    require_maskable,
    sparsity,
    unmask_,
)
from sparsekern.masks.torch_prune import from_torch_prune_, to_torch_prune_

__all__ = [
    "Masked",
    "as_matrix",
    "as_weight",
    "dense_state",
    "expand",
    "fit_block",
    "from_torch_prune_",
    "grid",
    "mask_",
    "maskable",
    "masks_of",
    "pool",
    "require_maskable",
    "sparsity",
    "to_torch_prune_",
    "unmask_",
]
