"""Masks of a network that is split over the ranks of torch.distributed, and masks that all ranks share.

A global threshold over ranks takes no weight to another rank: scores become integers of the same order, and
the place of the cut is narrowed down by a few bits at a time, from sums of histograms. What is equal to the
threshold is taken in the order of the ranks, so that counts are as exact as in one process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sparsekern.prune.api import blocks_of, scored
from sparsekern.prune.criteria import Context
from sparsekern.prune.structure import BlockLike
from sparsekern.prune.units import Units, whole

Group = Any
"""A process group of torch.distributed; None is the one of all ranks."""

BITS = 8


def next_masks_over_ranks(
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    rates: Mapping[str, float],
    block: BlockLike | Mapping[str, BlockLike] = (1, 1),
    criterion: str = "magnitude",
    context: Context | None = None,
    group: Group = None,
) -> dict[str, Tensor]:
    """The masks of this rank's weights after one pruning step with one threshold for those of all ranks.

    As `next_masks` with scope "global" on the weights of rank 0, then those of rank 1, and so on: layers of
    equal rate compete. Called on every rank, each with its own weights, or none. A layer that is cut apart
    is as in one process but for the choice among equal scores, and where the cut goes through a block.
    ValueError, on every rank, if any rank's arguments are wrong.
    """
    units: dict[str, Units] = {}
    problem = None
    try:
        blocks = blocks_of(weights, alive, rates, block)
        units = scored(weights, alive, blocks, criterion, context or Context())
        if fixed := [name for name, layer in units.items() if layer.least]:
            raise ValueError(
                f"N:M fixes the density of {fixed}, which leaves no global threshold to look for"
            )
    except ValueError as error:
        problem = str(error)
    pools = _gathered((problem, sorted(set(rates.values()))), group)
    if problems := [f"rank {rank}: {said}" for rank, (said, _) in enumerate(pools) if said]:
        raise ValueError("; ".join(problems))
    kept: dict[str, int] = {}
    for rate in sorted({rate for _, own in pools for rate in own}):
        members = {name: layer for name, layer in units.items() if rates[name] == rate}
        wanted = sum((1 - rate) * int(alive[name].sum()) for name in members)
        kept |= across_ranks(members, wanted, group)
    return {name: layer.best(kept[name]) for name, layer in units.items()}


def across_ranks(units: Mapping[str, Units], wanted: float, group: Group = None) -> dict[str, int]:
    """The units that each layer of this rank keeps, with one threshold for all layers of all ranks.

    wanted: the elements to keep of this rank's layers; only the sum over ranks counts. It is met as nearly as
    whole units allow, of two ways equally near by the one that keeps more. Every rank must call it.
    """
    place = _device(group)
    elements = whole(float(_summed(torch.tensor([wanted], dtype=torch.float64, device=place), group)))
    living = {name: layer.living for name, layer in units.items()}
    owner = torch.arange(len(units)).repeat_interleave(torch.tensor(list(living.values()), dtype=torch.int64))
    none = torch.empty(0, device=place)
    scores = torch.cat([none.double()] + [units[name].scores[:n].to(place) for name, n in living.items()])
    sizes = torch.cat([none.long()] + [units[name].sizes[:n].to(place) for name, n in living.items()])
    higher, tied, above = _threshold(_ordered(scores), sizes, elements, group)
    equal = sizes.where(tied, 0)
    reached = above + sum(_gathered(int(equal.sum()), group)[: dist.get_rank(group)]) + equal.cumsum(0)
    # A unit that crosses the mark stays if that is at least as near as stopping short of it.
    near = (reached - elements).abs() <= (elements - (reached - equal)).abs()
    survives = higher | (tied & (reached - equal < elements) & near)
    counts = torch.bincount(owner[survives.cpu()], minlength=len(units))
    return {name: int(count) for name, count in zip(units, counts, strict=True)}


def broadcast_masks(masks: Mapping[str, Tensor] | None, group: Group = None) -> dict[str, Tensor]:
    """The masks (bool) of the first rank, on every rank, on the CPU; what other ranks give is not looked at.

    What arrived is compared by `require_same_masks`. ValueError, on every rank, if the first gave none.
    """
    first = dist.get_rank(group) == 0
    shapes: list[Any] = [None]
    if first and masks is not None:
        shapes = [{name: tuple(mask.shape) for name, mask in masks.items()}]
    source = 0 if group is None else dist.get_global_rank(group, 0)
    dist.broadcast_object_list(shapes, source, group, _device(group))
    if shapes[0] is None:
        raise ValueError("masks are expected on the first rank, got None")
    counts = {name: int(np.prod(shape, dtype=int)) for name, shape in shapes[0].items()}
    packed = torch.empty(-(-sum(counts.values()) // 8), dtype=torch.uint8)
    if first and masks:
        flat = torch.cat([mask.detach().cpu().flatten() for mask in masks.values()])
        packed = torch.from_numpy(np.packbits(flat.numpy()))
    packed = packed.to(_device(group))
    dist.broadcast(packed, source, group)
    bits = torch.from_numpy(np.unpackbits(packed.cpu().numpy(), count=sum(counts.values()))).bool()
    parts = bits.split(list(counts.values()))  # type: ignore[no-untyped-call]
    received = {name: part.reshape(shapes[0][name]).clone() for name, part in zip(counts, parts, strict=True)}
    require_same_masks(received, group)
    return received


def require_same_masks(masks: Mapping[str, Tensor], group: Group = None) -> str:
    """The digest of masks that all ranks have alike; ValueError, on every rank, if they differ."""
    digests = _gathered(masks_digest(masks), group)
    if len(set(digests)) > 1:
        said = ", ".join(f"rank {rank} {digest[:16]}" for rank, digest in enumerate(digests))
        raise ValueError(f"the same masks are expected on every rank, got those of sha256 {said}")
    return str(digests[0])


def masks_digest(masks: Mapping[str, Tensor]) -> str:
    """sha256 over the names, in their order, the shapes and the bits of masks."""
    total = hashlib.sha256()
    for name, mask in masks.items():
        total.update(f"|{name}|{tuple(mask.shape)}|".encode())
        total.update(np.packbits(mask.detach().cpu().numpy()).tobytes())
    return total.hexdigest()


def _ordered(scores: Tensor) -> Tensor:
    """int64 keys whose bits, read as unsigned, are in the order of float64 scores, equal where these are."""
    bits = (scores + 0.0).view(torch.int64)  # the sum makes -0.0 one with 0.0
    limits = torch.iinfo(torch.int64)
    return torch.where(bits < 0, bits ^ limits.max, bits) ^ limits.min


def _threshold(keys: Tensor, sizes: Tensor, elements: int, group: Group) -> tuple[Tensor, Tensor, int]:
    """(higher, tied, above): which units of this rank lie above the threshold, and on it, both bool (units,);
    and the elements of all ranks above it, fewer than `elements`, which with those on it are reached."""
    higher, tied, above = torch.zeros_like(keys, dtype=torch.bool), torch.ones_like(keys, dtype=torch.bool), 0
    for shift in range(64 - BITS, -1, -BITS):
        digits = (keys >> shift) & (2**BITS - 1)
        sums = torch.zeros(2**BITS, dtype=torch.int64, device=keys.device)
        sums = _summed(sums.index_add_(0, digits[tied], sizes[tied]), group)
        reached = above + sums.flip(0).cumsum(0).flip(0)  # with this digit or a higher one
        digit = int((reached >= min(elements, int(reached[0]))).nonzero()[-1])
        above = int(reached[digit] - sums[digit])
        higher |= tied & (digits > digit)
        tied &= digits == digit
    return higher, tied, above


def _device(group: Group) -> torch.device:
    """Where tensors must lie to be sent."""
    return torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")


def _summed(values: Tensor, group: Group) -> Tensor:
    dist.all_reduce(values, group=group)
    return values


def _gathered(value: Any, group: Group) -> list[Any]:
    """What every rank gave, in their order."""
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, value, group)
    return found
