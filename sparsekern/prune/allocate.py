"""Allocation: how many blocks each layer keeps.

An allocation is `allocate(scores, sizes, rates) -> blocks kept, by name`. For each weight, `scores` holds the
score of each block and `sizes` its number of elements alive (both (block rows, block columns); 0 is a dead
block), and `rates` the share of its living elements to drop. Targets are counted in elements and met as
nearly as whole blocks allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sparsekern.prune.schedule import Geometric
from sparsekern.prune.structure import best_first

Allocation = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, float]], dict[str, int]]


def output_rates(names: Sequence[str], rate: float, output_rate: float) -> dict[str, float]:
    """`rate` for every weight but the last, the output layer, which gets `output_rate`.

    The paper prunes it half as fast (Frankle & Carbin 2019, arXiv 1803.03635, figure 2).
    """
    return {name: output_rate if name == names[-1] else rate for name in names}


def _survivors(scores: Tensor, sizes: Tensor, rate: float) -> Tensor:
    """Indices of the blocks kept, best first; of two cuts equally near the target, the one that keeps
    more."""
    order = best_first(scores)
    reached = torch.cat([sizes.new_zeros(1), sizes[order].cumsum(0)])
    distance = (reached - Geometric(rate).keep(int(reached[-1]))).abs()
    return order[: int((distance == distance.min()).nonzero()[-1])]


def per_layer(
    scores: Mapping[str, Tensor], sizes: Mapping[str, Tensor], rates: Mapping[str, float]
) -> dict[str, int]:
    """Each layer drops its own share; ValueError if that takes a layer's last block and kills the network."""
    kept = {}
    for name, size in sizes.items():
        alive = size > 0
        kept[name] = _survivors(scores[name][alive], size[alive], rates[name]).numel()
        if kept[name] == 0:
            raise ValueError(
                f"layer {name}: dropping {rates[name]:.4g} of what is alive leaves none of "
                f"its {int(alive.sum())} blocks: a smaller block or a lower sparsity is expected"
            )
    return kept


def across_layers(
    scores: Mapping[str, Tensor], sizes: Mapping[str, Tensor], rates: Mapping[str, float]
) -> dict[str, int]:
    """Layers of equal rate compete for the same places: one threshold for all of them.

    A layer may lose everything ("layer collapse"); that is the method, and the masks show it.
    """
    kept: dict[str, int] = {}
    for rate in sorted(set(rates.values())):
        names = [name for name in sizes if rates[name] == rate]
        alive = {name: sizes[name] > 0 for name in names}
        owner = torch.cat([torch.full((int(alive[name].sum()),), i) for i, name in enumerate(names)])
        survivors = _survivors(
            torch.cat([scores[name][alive[name]] for name in names]),
            torch.cat([sizes[name][alive[name]] for name in names]),
            rate,
        )
        counts = torch.bincount(owner[survivors.cpu()], minlength=len(names))
        kept |= {name: int(count) for name, count in zip(names, counts, strict=True)}
    return kept


ALLOCATIONS: dict[str, Allocation] = {
    "layer": per_layer,
    "global": across_layers,
}
