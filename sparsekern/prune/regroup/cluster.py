"""Which rows should be neighbours: clusters of one height that keep most score in few blocks.

A block is a cluster of rows in one column, and of all blocks the best share is kept. With a price for a
block, which is the score of the last one kept, a partition is worth the sum over its blocks of
max(0, score - price): each cluster can be judged by itself. There are two ways to begin. `grow` gives every
cluster a row and lets all of them take one row at a time, the one that raises their worth most; `merged`
pairs rows, pairs the pairs, and so on. Then `exchange_` swaps rows between pairs of clusters as long as that
raises the worth. Candidates come from matrix products of rows with the slopes of the clusters' worth; what
is done is checked exactly.

Structure-LTH (arXiv 2202.04736) finds such clusters by cutting a hypergraph, gyro-permutation (arXiv
2407.20496) by balanced clustering and assignment; the 1xN pattern (arXiv 2105.14713) sorts rows by weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PASSES = 60
_SMALL, _LARGE = 2**30, 2**35  # multiplications to compare all rows
_WIDTHS = (0.5, 0.25, 0.125, 0.0625)
"""Of the smoothed step at the price, in standard deviations of block scores."""


@dataclass(frozen=True)
class Face:
    """Scores of `n` rows, (n, columns), not negative; of their blocks the share `density` is to be kept."""

    scores: Tensor
    density: float


def cluster(faces: Sequence[Face], height: int) -> Tensor:
    """An order of the rows, int64 (n,), in which each `height` neighbours are a cluster.

    The faces have the same rows, and a partition is worth the sum of what it is worth to each. Rows beyond
    the last whole cluster are the lightest and stand last. From each start it costs n² · columns
    multiplications to begin with, and n² · columns / height for each of at most 60 passes of exchanges; of
    several starts, fewer in large problems, the best end is taken. The same rows give the same order.
    """
    scores = torch.cat([face.scores for face in faces], dim=1)
    n, clusters = len(scores), len(scores) // height
    if clusters < 2 or height == 1:
        return torch.arange(n)
    by_weight = scores.sum(dim=1).argsort(descending=True, stable=True)
    whole, rest = by_weight[: clusters * height].sort().values, by_weight[clusters * height :].sort().values
    rows, counts = scores[whole], [face.scores.shape[1] for face in faces]
    densities = [face.density for face in faces]
    market = _market(rows.reshape(clusters, height, -1).sum(dim=1), counts, densities)
    best, found = -1.0, whole.reshape(clusters, height)
    for members in _starts(rows, height, market):
        kept = _exchange_all_(rows, members, counts, densities)
        if kept > best:
            best, found = kept, whole[members]
    return torch.cat([found.sort(dim=1).values.flatten(), rest])


def _starts(rows: Tensor, height: int, market: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
    """Clusters to begin with, as many as there is time for."""
    work = len(rows) * rows.numel()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3 if work <= _SMALL else 1):
        first = torch.randperm(len(rows), generator=generator)[: len(rows) // height]
        yield grow(rows, first, height, *market)
    if work <= _LARGE and height % 2 == 0:
        yield merged(rows, height, market)


def _market(sums: Tensor, counts: Sequence[int], densities: Sequence[float]) -> tuple[Tensor, Tensor]:
    """For each column the price of a block and the spread of what blocks score, those of its face."""
    prices, spreads = [], []
    for blocks, density in zip(torch.split(sums, list(counts), dim=1), densities, strict=True):
        prices.append(blocks.flatten().kthvalue(blocks.numel() - _number(blocks, density) + 1).values)
        spreads.append(blocks.std(correction=0).clamp(min=torch.finfo(blocks.dtype).tiny))
    repeats = torch.tensor(counts)
    return torch.stack(prices).repeat_interleave(repeats), torch.stack(spreads).repeat_interleave(repeats)


def _number(blocks: Tensor, density: float) -> int:
    return min(max(round(density * blocks.numel()), 1), blocks.numel())


# ---- growing


def grow(rows: Tensor, first: Tensor, height: int, price: Tensor, spread: Tensor) -> Tensor:
    """Clusters of the n rows, int64 (n / height, height), around a first row each.

    All of them take one row in each of height - 1 rounds. A row is judged by the slopes of the clusters'
    worth, smooth, as a block below the price may yet rise above it. Of clusters that want the same row, the
    one gets it to which it is worth most above its mean.
    """
    members, mean = first[:, None], rows.mean(dim=0)
    taken = torch.zeros(len(rows), dtype=torch.bool)
    sums = rows[members[:, 0]]
    for left in range(height - 1, 0, -1):
        taken[members[:, -1]] = True
        expected = sums + (left - 1) * mean
        slopes = torch.sigmoid((expected - price) / (spread * _WIDTHS[0] * (1 + left / height)))
        gains = rows @ slopes.T
        gains = (gains - gains.mean(dim=1, keepdim=True)).masked_fill_(taken[:, None], -torch.inf)
        chosen = _one_each(gains)
        members = torch.cat([members, chosen[:, None]], dim=1)
        sums += rows[chosen]
    return members


def _one_each(gains: Tensor) -> Tensor:
    """A row of (rows, clusters) for each cluster, no row twice, the largest gains first; uses up `gains`."""
    rows, clusters = gains.shape
    chosen = torch.full((clusters,), -1)
    while bool((chosen < 0).any()):
        waiting = (chosen < 0).nonzero().flatten()
        best, row = gains[:, waiting].max(dim=0)
        turn = best.argsort(descending=True, stable=True)
        wanted, count = row[turn], torch.arange(len(waiting))
        first = torch.full((rows,), len(waiting)).scatter_reduce_(0, wanted, count, "amin")
        served = first[wanted] == count
        chosen[waiting[turn[served]]] = wanted[served]
        gains[wanted[served]] = -torch.inf
    return chosen


# ---- merging


def merged(rows: Tensor, height: int, market: tuple[Tensor, Tensor]) -> Tensor:
    """Clusters of the n rows, int64 (n / height, height), by pairing what is most alike again and again.

    What is left of a height that is no power of two, grows.
    """
    members, units = torch.arange(len(rows))[:, None], rows
    while height % (2 * members.shape[1]) == 0:
        pairs = _paired(units)
        members, units = members[pairs].flatten(1), units[pairs].sum(dim=1)
    rest = height // members.shape[1]
    if rest > 1:
        members = members[grow(units, torch.arange(len(units) // rest), rest, *market)].flatten(1)
    return members


def _paired(units: Tensor) -> Tensor:
    """Pairs of units, (units / 2, 2), that have more in common than chance would give them.

    Again and again those that are each other's best; where there are few of these, as among equal ones, by
    weight.
    """
    weight = units.sum(dim=1)
    alike = (units @ units.T).sub_(torch.outer(weight, weight / units.shape[1])).fill_diagonal_(-torch.inf)
    left, pairs = torch.arange(len(units)), []
    while len(left):
        best, here = alike.argmax(dim=1), torch.arange(len(left))
        one = ((best[best] == here) & (here < best)).nonzero().flatten()
        if 64 * len(one) < len(left):
            pairs.append(left[weight[left].argsort(descending=True, stable=True)].reshape(-1, 2))
            break
        pairs.append(torch.stack([left[one], left[best[one]]], dim=1))
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[one] = stays[best[one]] = False
        left, alike = left[stays], alike[stays][:, stays]
    return torch.cat(pairs)


# ---- exchanging


def _exchange_all_(rows: Tensor, members: Tensor, counts: Sequence[int], densities: Sequence[float]) -> float:
    """Passes of exchanges until none helps, with ever sharper steps at the price; what is kept in the end."""
    where = rows.nonzero().T
    values = rows[where[0], where[1]]
    sums = rows[members].sum(dim=1)
    widths = list(_WIDTHS)
    for _ in range(_PASSES):
        price, spread = _market(sums, counts, densities)
        gains = _gains(rows, (where, values), members, sums, (price, spread * widths[0]))
        if not exchange_(rows, members, sums, gains, price):
            widths.pop(0)
        if not widths:
            break
    faces = zip(torch.split(sums, list(counts), dim=1), densities, strict=True)
    return sum(
        float(blocks.flatten().topk(_number(blocks, density)).values.sum()) for blocks, density in faces
    )


def _gains(
    rows: Tensor,
    nonzeros: tuple[Tensor, Tensor],
    members: Tensor,
    sums: Tensor,
    market: tuple[Tensor, Tensor],
) -> Tensor:
    """What moving each member to each cluster would bring, (clusters, height, clusters).

    It is judged with one row less in the other cluster, and without itself in its own: what a row brings by
    having been there already must not speak for its staying.
    """
    price, width = market
    height = members.shape[1]
    gains = rows @ torch.sigmoid((sums * ((height - 1) / height) - price) / width).T
    (row, column), value = nonzeros
    mine = torch.empty(len(rows), dtype=torch.int64)
    mine[members.flatten()] = torch.arange(len(rows)) // height
    slopes = torch.sigmoid((sums[mine[row], column] - value - price[column]) / width[column])
    own = torch.zeros(len(rows)).index_add_(0, row, slopes * value)
    return (gains - own[:, None])[members]


def exchange_(rows: Tensor, members: Tensor, sums: Tensor, gains: Tensor, price: Tensor) -> bool:
    """Swap members between disjoint pairs of clusters, in place; says whether there were any.

    In each pair as many are swapped as raise the worth most.
    """
    most = max(members.shape[1] // 8, 1)
    best, mover = gains.topk(most, dim=1)
    one, other = _disjoint_pairs(best[:, 0] + best[:, 0].T)
    if one.numel() == 0:
        return False
    goes, comes = mover[one, :, other], mover[other, :, one]  # (pairs, most), the best first
    change = (rows[members[other[:, None], comes]] - rows[members[one[:, None], goes]]).cumsum(dim=1)
    worth = _worth(sums[one][:, None] + change, price) + _worth(sums[other][:, None] - change, price)
    worth -= (_worth(sums[one], price) + _worth(sums[other], price))[:, None]
    raised, count = worth.max(dim=1)
    good = raised > 1e-6 * price.sum() / len(price)
    for pair in good.nonzero().flatten().tolist():
        a, b, last = one[pair], other[pair], count[pair] + 1
        leaving, arriving = members[a, goes[pair, :last]], members[b, comes[pair, :last]]
        members[a, goes[pair, :last]], members[b, comes[pair, :last]] = arriving, leaving
        sums[a] += change[pair, last - 1]
        sums[b] -= change[pair, last - 1]
    return bool(good.any())


def _worth(sums: Tensor, price: Tensor) -> Tensor:
    return (sums - price).clamp_(min=0).sum(dim=-1)


def _disjoint_pairs(gains: Tensor) -> Tensor:
    """Pairs of clusters with a positive gain, (2, pairs), no cluster twice.

    Each with its best partner, the largest gains first.
    """
    best, partner = gains.fill_diagonal_(-torch.inf).max(dim=1)
    turn = best.argsort(descending=True, stable=True)[: int((best > 0).sum())]
    partners, used, pairs = partner.tolist(), set[int](), []
    for one in turn.tolist():
        if one not in used and partners[one] not in used:
            used |= {one, partners[one]}
            pairs.append((one, partners[one]))
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
