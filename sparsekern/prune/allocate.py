"""Allocation: how many units each layer keeps.

An allocation is `allocate(units, wanted) -> units kept, by name`. `wanted` is the number of elements that
each layer would keep if the sparsity were the same in all of them; an allocation may share out their sum
otherwise. Targets are counted in elements and met as nearly as whole units allow. The same sparsity in
every layer is "layer"; rates for kinds of layers are `by_layer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor

from sparsekern.masks import grid
from sparsekern.prune.units import Units, whole

Allocation = Callable[[Mapping[str, Units], Mapping[str, float]], dict[str, int]]


def output_rates(names: Sequence[str], rate: float, output_rate: float) -> dict[str, float]:
    """`rate` for every weight but the last, the output layer, which gets `output_rate`.

    The paper prunes it half as fast (Frankle & Carbin 2019, arXiv 1803.03635, figure 2).
    """
    return {name: output_rate if name == names[-1] else rate for name in names}


def per_layer(units: Mapping[str, Units], wanted: Mapping[str, float]) -> dict[str, int]:
    """Each layer keeps its own share; ValueError if that takes a layer's last unit and kills the network.

    Where papers say uniform and leave the first layer dense (Evci et al. 2020, arXiv 1911.11134), that
    layer is one to ignore.
    """
    return {name: _some(name, layer, wanted[name]) for name, layer in units.items()}


def across_layers(units: Mapping[str, Units], wanted: Mapping[str, float]) -> dict[str, int]:
    """Layers compete for the same places: one threshold for all of them.

    A layer may lose everything ("layer collapse"); that is the method, and the masks show it.
    """
    living = {name: layer.living for name, layer in units.items()}
    scores = torch.cat([layer.scores[: living[name]] for name, layer in units.items()])
    sizes = torch.cat([layer.sizes[: living[name]] for name, layer in units.items()])
    owner = torch.cat([torch.full((count,), i) for i, count in enumerate(living.values())])
    order = scores.sort(descending=True, stable=True).indices
    survivors = order[: _cut(sizes[order], whole(sum(wanted.values())))]
    counts = torch.bincount(owner[survivors.cpu()], minlength=len(units))
    return {name: int(count) for name, count in zip(units, counts, strict=True)}


def erdos_renyi(units: Mapping[str, Units], wanted: Mapping[str, float]) -> dict[str, int]:
    """A layer's density goes with (n_in + n_out) / (n_in * n_out); small layers stay dense.

    Mocanu et al. 2018 (SET), arXiv 1707.04780. The factor is solved for the sum of `wanted`, layers that
    would need more than they have being full; for single weights it comes out exactly. Channels count as
    n_in and n_out of a convolution. ValueError if a layer would keep nothing.
    """
    return _by_density(units, wanted, sides=2)


def erdos_renyi_kernel(units: Mapping[str, Units], wanted: Mapping[str, float]) -> dict[str, int]:
    """As `erdos_renyi`, with the sides of a convolution's kernel: all sides' sum over their product.

    Evci et al. 2020 (RigL), arXiv 1911.11134.
    """
    return _by_density(units, wanted, sides=None)


ALLOCATIONS: dict[str, Allocation] = {
    "layer": per_layer,
    "global": across_layers,
    "erdos-renyi": erdos_renyi,
    "erdos-renyi-kernel": erdos_renyi_kernel,
}


def share_out(
    units: Mapping[str, Units], wanted: Mapping[str, float], pools: Mapping[str, Hashable], scope: str
) -> dict[str, int]:
    """The units kept by name: the allocation named `scope`, among layers of equal `pools` only.

    ValueError for an unknown scope, one other than "layer" for a structure that fixes a layer's density, or
    what the allocation refuses.
    """
    if scope not in ALLOCATIONS:
        raise ValueError(f"unknown scope {scope!r}: expected one of {list(ALLOCATIONS)}")
    if scope != "layer" and (fixed := [name for name, layer in units.items() if layer.least]):
        raise ValueError(
            f"scope 'layer' is expected for N:M, which fixes the density of {fixed}, got {scope!r}"
        )
    kept: dict[str, int] = {}
    for pool in dict.fromkeys(pools.values()):
        members = {name: layer for name, layer in units.items() if pools[name] == pool}
        kept |= ALLOCATIONS[scope](members, {name: wanted[name] for name in members})
    return kept


def _cut(sizes: Tensor, elements: int) -> int:
    """After how many living units `elements` are reached most nearly; of two cuts equally near, the later."""
    reached = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    distance = (reached - elements).abs()
    return int((distance == distance.min()).nonzero()[-1])


def _some(name: str, layer: Units, wanted: float) -> int:
    """The units of one layer that hold `wanted` elements most nearly; ValueError if these are too few."""
    living = layer.living
    if living == 0:
        raise ValueError(f"layer {name}: a layer with anything alive is expected, got an empty mask")
    of_one_block = layer.cell != (1, 1) and grid(layer.alive.shape, layer.cell) == (1, 1)
    if of_one_block and whole(wanted) < int(layer.alive.sum()):
        raise ValueError(
            f"layer {name}: a block smaller than its shape {tuple(layer.alive.shape)} is expected: one of "
            f"{layer.cell} is all of it, so that no part of it can be dropped"
        )
    kept = _cut(layer.sizes[:living], whole(wanted))
    dropped = 1 - wanted / int(layer.alive.sum())
    if kept == 0:
        raise ValueError(
            f"layer {name}: dropping {dropped:.4g} of what is alive leaves none of its {living} units "
            "(blocks, filters, ...): smaller units or a lower sparsity are expected"
        )
    if kept < min(layer.least, living):
        raise ValueError(
            f"layer {name}: dropping {dropped:.4g} of what is alive leaves {kept} of every {layer.length} "
            f"neighbours, and N:M keeps {layer.least}: a lower sparsity is expected"
        )
    return kept


def _by_density(units: Mapping[str, Units], wanted: Mapping[str, float], sides: int | None) -> dict[str, int]:
    alive = {name: int(layer.alive.sum()) for name, layer in units.items()}
    shapes = {name: layer.alive.shape for name, layer in units.items()}
    shares = {
        name: shape.numel() * sum(shape[:sides]) / math.prod(shape[:sides]) for name, shape in shapes.items()
    }
    elements = _fill(alive, shares, whole(sum(wanted.values())))
    return {name: _some(name, layer, elements[name]) for name, layer in units.items()}


def _fill(room: Mapping[str, int], shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` elements in proportion to `shares`, nowhere more than there is room; the sum is exact."""
    full: dict[str, int] = {}
    while True:
        rest = {name: share for name, share in shares.items() if name not in full}
        factor = (total - sum(full.values())) / (sum(rest.values()) or 1)
        more = {name: room[name] for name, share in rest.items() if factor * share >= room[name]}
        if not more:
            break
        full |= more
    exact = {name: factor * share for name, share in rest.items()}
    counts = {name: math.floor(round(amount, 6)) for name, amount in exact.items()}
    # Whole numbers that keep the sum: what rounding down left over goes to the largest remainders.
    missing = total - sum(full.values()) - sum(counts.values())
    for name in sorted(counts, key=lambda name: counts[name] - exact[name])[:missing]:
        counts[name] += 1
    return full | counts
