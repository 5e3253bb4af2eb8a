"""Structure: turning scores of weights into masks of whole blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsekern.masks import expand, pool


def block_scores(scores: Tensor, block: Sequence[int]) -> Tensor:
    """The mean score over the real elements of each block, float64 (block rows, block columns).

    A mean and not a sum, so that a ragged block at the edge is judged like its neighbours.
    """
    return pool(scores, block) / pool(torch.ones(scores.shape), block)


def best_first(scores: Tensor) -> Tensor:
    """The indices of flat `scores`, highest first; equal scores stay in the order of their indices."""
    return torch.sort(scores, descending=True, stable=True).indices


def top_blocks(scores: Tensor, block: Sequence[int], keep: int, alive: Tensor | None = None) -> Tensor:
    """The mask of the `keep` best blocks among those with any element alive: exact at ties.

    scores: of the weight's shape. alive: bool of that shape, None for all; dead elements stay dead, so masks
    nest. Of equal blocks the one with the lower flat index is kept. Returns bool of the weight's shape.
    ValueError for NaN scores, an `alive` of another shape or dtype, or a `keep` outside 0 … alive blocks.
    """
    if alive is None:
        alive = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    if alive.dtype != torch.bool or alive.shape != scores.shape:
        raise ValueError(
            f"alive must be bool of shape {tuple(scores.shape)}, "
            f"got {alive.dtype} of shape {tuple(alive.shape)}"
        )
    if bool(scores.isnan().any()):
        raise ValueError(f"scores must be numbers, got {int(scores.isnan().sum())} NaN of {scores.numel()}")
    means = block_scores(scores, block)
    candidates = (pool(alive, block) > 0).flatten().nonzero().flatten()
    if not 0 <= keep <= candidates.numel():
        raise ValueError(f"keep must be between 0 and the {candidates.numel()} blocks alive, got {keep}")
    kept = candidates[best_first(means.flatten()[candidates])[:keep]]
    block_mask = torch.zeros(means.numel(), dtype=torch.bool, device=scores.device)
    block_mask[kept] = True
    return expand(block_mask.reshape(means.shape), scores.shape, block) & alive
