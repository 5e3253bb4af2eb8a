"""Optimal brain surgeon on one layer: what is left makes up for what goes.

The error is that of the layer's own outputs, ‖ΔW X‖². Its second derivatives are the Gram matrix X Xᵀ of the
inputs, the same for every output. Hassibi & Stork 1992 (NeurIPS 5); Frantar & Alistarh 2023, "SparseGPT"
(arXiv 2301.00774).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sparsekern.masks import mask_, masks_of
from sparsekern.prune.criteria.inputs import unfolded
from sparsekern.prune.criteria.network import raw_weight
from sparsekern.prune.structure import NM, Block, BlockLike, Structure, as_structure
from sparsekern.prune.units import units_of, whole

DAMPING = 0.01
"""What is added to the diagonal of a Gram matrix before it is inverted, as a share of its mean."""

COLUMNS = 128
"""Columns that are updated one by one before the rest of the matrix is, in one product."""


def gram(layer: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
    """X Xᵀ / samples of all inputs: float64 (groups, k, k), with k the weights of one output.

    inputs: tensors as the nn.Linear (samples, ..., in), nn.Conv1d (samples, in, length) or nn.Conv2d
    (samples, in, height, width) is given; positions are summed over. ValueError for another layer, or without
    samples.
    """
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        raise ValueError(f"an nn.Linear, nn.Conv1d or nn.Conv2d is expected, got {type(layer).__name__}")
    total, samples = torch.zeros((), dtype=torch.float64), 0
    for given in inputs:
        columns = unfolded(layer, given.detach().double()).permute(1, 2, 0, 3).flatten(2)
        total = total + columns @ columns.mT
        samples += len(given)
    if samples == 0:
        raise ValueError("inputs must hold at least one sample, got none")
    return total / samples


def inverse(hessian: Tensor) -> Tensor:
    """The inverse of each matrix of a `gram` (groups, k, k), damped; ValueError if all inputs were zero."""
    mean = hessian.diagonal(dim1=1, dim2=2).mean()
    if not mean > 0:
        raise ValueError(f"the layer's inputs must not all be zero, got a mean square of {float(mean)}")
    damped = hessian + DAMPING * mean * torch.eye(hessian.shape[1]).to(hessian)
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def obs_update(weight: Tensor, mask: Tensor, hessian: Tensor) -> Tensor:
    """The weights nearest to `weight` in the layer's outputs among those that are zero where `mask` is False.

    weight: (out, ...); mask: bool of its shape; hessian: a `gram` (groups, k, k) of its inputs. Least squares
    over all kept weights of an output at once, in float64; returned in the weight's dtype. It takes a
    factorisation for every distinct row of the mask, so it is exact and slow: `sparsegpt_` is the quick way.
    ValueError for shapes that do not fit, or a Gram matrix of too few samples for the weights that are kept.
    """
    matrix, kept = weight.detach().double().flatten(1), mask.flatten(1)
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool of shape {tuple(weight.shape)}, got {mask.dtype} of {tuple(mask.shape)}"
        )
    if hessian.shape[1:] != (matrix.shape[1],) * 2 or len(matrix) % len(hessian):
        raise ValueError(
            f"hessian must be (groups, {matrix.shape[1]}, {matrix.shape[1]}) with groups that divide "
            f"{len(matrix)} outputs, got {tuple(hessian.shape)}"
        )
    updated = torch.zeros_like(matrix)
    for group, rows in zip(hessian, torch.arange(len(matrix)).chunk(len(hessian)), strict=True):
        patterns, which = torch.unique(kept[rows], dim=0, return_inverse=True)
        for index, pattern in enumerate(patterns):
            chosen, columns = rows[which.cpu() == index], pattern.nonzero().flatten()
            factor, failed = torch.linalg.cholesky_ex(group[columns][:, columns])
            if failed:
                raise ValueError(
                    f"hessian must be positive definite on the {len(columns)} weights that an output keeps: "
                    "more samples are expected, or damping on its diagonal"
                )
            target = group[columns] @ matrix[chosen].T
            updated[chosen[:, None], columns] = torch.cholesky_solve(target, factor).T
    return updated.reshape(weight.shape).to(weight.dtype)


def sparsegpt_(
    layer: nn.Module, inputs: Iterable[Tensor], sparsity: float = 0.5, block: BlockLike = (1, 1)
) -> Tensor:
    """Prune a linear layer or convolution and update what is left, in place; returns the mask put on it.

    SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774): column by column, and what goes of a column is made
    up for by the columns to its right. The mask is chosen for 128 columns at a time, for N:M along the inputs
    for each M, by w² / [H⁻¹]_jj of the weights as they then are and the columns that are still free.
    `layer_inputs` has the inputs of a layer in its network. A network is pruned from the first layer to the
    last, each on the inputs that it gets from the pruned ones before it.

    inputs: see `gram`. sparsity: the share of the block's units to drop, met in every window of columns to
    within one; 1 - n / m for N:M. block: a structure as of `prune_`. A mask that is there only shrinks, and
    what it hides is lost.

    ValueError, before anything is changed, for another layer, a weight that is neither a Parameter nor
    masked, inputs that are all zero, a sparsity outside [0, 1) or that is not the pattern's, and a structure
    that does not fit the shape or crosses groups of a convolution.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}")
    hessian, raw = gram(layer, inputs), raw_weight(layer)
    weight = cast(Tensor, layer.weight).detach()
    matrix, outputs = weight.double().flatten(1), len(weight) // len(hessian)
    structure = as_structure(block)
    if outputs % (height := structure.cell(weight.shape)[0]) and len(hessian) > 1:
        raise ValueError(f"{block}: a block must lie in one group of {outputs} outputs, got {height} high")
    if isinstance(structure, NM) and not math.isclose(sparsity, 1 - structure.n / structure.m):
        raise ValueError(f"{block} has a sparsity of {1 - structure.n / structure.m}, got {sparsity}")
    window = _window(structure, (outputs, *weight.shape[1:]))
    alive = masks_of(layer).get("weight", torch.ones_like(weight, dtype=torch.bool)).flatten(1)
    groups = zip(torch.split(matrix, outputs), inverse(hessian), torch.split(alive, outputs), strict=True)
    swept = [_sweep(*group, window, sparsity) for group in groups]
    updated, mask = (torch.cat(parts).reshape(weight.shape) for parts in zip(*swept, strict=True))
    with torch.no_grad():
        raw.copy_(updated)
    mask_(layer, mask)
    return mask


class _Window(NamedTuple):
    """Columns whose mask is chosen together, and the structure of them as a weight (out, channels, taps)."""

    structure: Structure
    columns: int
    taps: int


def _window(structure: Structure, shape: Sequence[int]) -> _Window:
    high, wide = structure.cell(shape)
    if isinstance(structure, NM) and structure.axis == "in":
        taps = math.prod(shape[2:])
        return _Window(structure, structure.m * taps, taps)
    if isinstance(structure, Block):
        structure = Block(high, wide, pooling=structure.pooling)
    return _Window(structure, wide * max(1, COLUMNS // wide), 1)


def _sweep(
    weight: Tensor, inverse: Tensor, alive: Tensor, window: _Window, sparsity: float
) -> tuple[Tensor, Tensor]:
    """(updated weight, mask) of the float64 (rows, k) of one group.

    Row j of the upper Cholesky factor of the inverse is row j of the inverse that is left once the columns
    before j are fixed, divided by the root of its diagonal: all that an update of column j needs.
    """
    factor = torch.linalg.cholesky(inverse, upper=True)
    diagonal = factor.diagonal()
    weight, mask, seen, kept = weight.clone(), alive.clone(), 0, 0
    step = window.columns * max(1, COLUMNS // window.columns)
    for first in range(0, weight.shape[1], step):
        last = min(first + step, weight.shape[1])
        errors = torch.zeros_like(weight[:, first:last])
        for column in range(first, last):
            if column % window.columns == 0:
                ahead = slice(column, min(column + window.columns, last))
                scores = (weight[:, ahead] / diagonal[ahead]).square()
                shape = (len(weight), scores.shape[1] // window.taps, window.taps)
                units = units_of(scores.reshape(shape), window.structure, alive[:, ahead].reshape(shape))
                # Counted from the left, so that no rounding adds up.
                seen += window.structure.runs(shape).shape[1]
                keep = min(whole((1 - sparsity) * seen) - kept, units.living)
                kept += keep
                mask[:, ahead] = units.best(keep).reshape(scores.shape)
            error = torch.where(mask[:, column], 0, weight[:, column]) / diagonal[column]
            weight[:, column:last] -= torch.outer(error, factor[column, column:last])
            errors[:, column - first] = error
        weight[:, last:] -= errors @ factor[first:last, last:]
    return torch.where(mask, weight, 0), mask
