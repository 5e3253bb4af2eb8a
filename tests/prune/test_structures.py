"""Structures against loops that are too simple to be wrong: N:M, constant fan-in, filters, kernels, ..."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsekern.masks import masks_of
from sparsekern.prune import NM, Block, FanIn, prune_, top_blocks
from sparsekern.prune.structure import as_structure, block_scores
from sparsekern.prune.units import units_of


def neighbours(weight: Tensor, pattern: NM) -> Iterator[Tensor]:
    """Runs of m cells, each a row of its elements: (m, elements of a cell)."""
    outs = range(0, weight.shape[0], pattern.out)
    taps = list(itertools.product(*(range(side) for side in weight.shape[2:])))
    for tap in taps:
        at_tap = weight[(slice(None), slice(None), *tap)]
        if pattern.axis == "in":
            for out, first in itertools.product(outs, range(0, weight.shape[1], pattern.m)):
                yield at_tap[out : out + pattern.out, first : first + pattern.m].T
        else:
            height = pattern.out * pattern.m
            for out, column in itertools.product(range(0, weight.shape[0], height), range(weight.shape[1])):
                yield at_tap[out : out + height, column].reshape(pattern.m, pattern.out)


@pytest.mark.parametrize("shape", [(12, 16), (8, 16, 3, 2)])
@pytest.mark.parametrize(
    "pattern", [NM(2, 4), NM(1, 4), NM(3, 8), NM(2, 4, "out"), NM(1, 2, "in", 4), NM(1, 2, "out", 2)]
)
def test_nm_keeps_the_best_n_of_every_m(shape: tuple[int, ...], pattern: NM) -> None:
    for weight in (torch.rand(shape), torch.randint(0, 3, shape).float()):  # The second has ties.
        mask = top_blocks(weight, pattern, pattern.n)
        assert int(mask.sum()) * pattern.m == mask.numel() * pattern.n
        for cells, alive in zip(neighbours(weight, pattern), neighbours(mask, pattern), strict=True):
            assert bool((alive == alive[:, :1]).all()) and int(alive[:, 0].sum()) == pattern.n
            sums = cells.double().sum(dim=1)
            best = max(sum(chosen) for chosen in itertools.combinations(sums.tolist(), pattern.n))
            assert float(sums[alive[:, 0]].sum()) == pytest.approx(best)


def test_nm_gets_there_by_way_of_patterns_that_nest() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    pattern = NM(2, 4)
    before = None
    for sparsity, kept in ((0.0, 4), (0.2, 3), (0.3, 3), (0.5, 2), (0.4, 2)):
        masks = prune_(model, sparsity, block=pattern)
        for mask in masks.values():
            assert bool((mask.reshape(-1, 4).sum(dim=1) == kept).all())
        assert before is None or all(not bool((masks[name] & ~before[name]).any()) for name in masks)
        before = {name: mask.clone() for name, mask in masks.items()}
    with pytest.raises(
        ValueError, match=r"layer 0.weight: .* leaves 1 of every 4 neighbours, .* N:M keeps 2"
    ):
        prune_(model, 0.75, block=pattern)


def test_nm_inside_an_earlier_mask_never_fills_up_one_run_for_another() -> None:
    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0, 6, 7, 8, 1, 2, 3, 4]]))
    prune_(model, 0.375)  # 1, 2 and 3 go, so the second run has one left.
    assert prune_(model, 0.5, block="2:4")["weight"].tolist() == [
        [False, False, True, True, False, False, False, True]
    ]


@pytest.mark.parametrize(
    ("pattern", "shape", "message"),
    [
        (NM(2, 4), (8, 6), r"NM\(n=2, m=4.*multiple of 1 outputs and of 4 inputs.*got .* \(8, 6\)"),
        # 48 inputs a filter, but 3 channels.
        (NM(2, 4), (8, 3, 4, 4), r"multiple of 1 outputs and of 4 inputs"),
        (NM(2, 4, "out"), (6, 8), r"multiple of 4 outputs"),
        (NM(2, 4, "out", 2), (12, 8), r"multiple of 8 outputs"),
        (NM(2, 4, "in", 16), (10, 8), r"multiple of 16 outputs"),
        (Block(1, 1, kernels=True), (8, 6), r"block=\(1, 1\) means the same"),
        (Block(4, 2), (8,), r"at least two dimensions"),
    ],
)
def test_a_structure_that_does_not_fit_says_why(pattern: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_blocks(torch.rand(shape), pattern, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NM(4, 4), "0 < n < m"),
        (lambda: NM(0, 4), "0 < n < m"),
        (lambda: NM(2, 4, "taps"), "unknown axis 'taps': expected 'in' or 'out'"),
        (lambda: NM(2, 4, out=0), "out of at least 1"),
        (lambda: NM(2.0, 4), "must be ints"),  # type: ignore[arg-type]
        (lambda: FanIn(0), "out must be a positive int, got 0"),
        (lambda: Block(0, 1), r"two positive ints \(out, in\), None for a whole side, got \(0, 1\)"),
        (lambda: as_structure((1, 2, 3)), r"two positive ints .*got \(1, 2, 3\)"),
        (lambda: as_structure((1, None)), r"got \(1, None\)"),  # type: ignore[arg-type]
        (lambda: as_structure("tubes"), r"unknown structure 'tubes': expected one of \['filters', 'rows'"),
        (lambda: block_scores(torch.ones(2, 2), (1, 1), "median"), r"unknown pooling 'median'.*'max'"),
    ],
)
def test_bad_structures_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("out", [1, 3])
def test_constant_fan_in_keeps_the_best_inputs_of_every_output(out: int) -> None:
    weight = torch.rand(7, 4, 3, 1)
    mask = top_blocks(weight, FanIn(out), 5).flatten(1)
    assert mask.sum(dim=1).tolist() == [5] * 7
    for first in range(0, 7, out):
        group = weight.flatten(1)[first : first + out].mean(dim=0)
        alive = mask[first : first + out]
        assert bool((alive == alive[0]).all())
        assert float(group[alive[0]].min()) > float(group[~alive[0]].max())


def test_an_output_with_fewer_inputs_left_keeps_those() -> None:
    weight = torch.tensor([[4.0, 3, 2, 1], [10, 99, 99, 9]])
    alive = torch.tensor([[True, True, True, True], [True, False, False, True]])
    units = units_of(weight, FanIn(), alive)
    assert units.sizes.tolist() == [2, 2, 1, 1] and units.scores.tolist() == [7.0, 6.0, 1.0, 0.5]
    assert units.best(3).tolist() == [[True, True, True, False], [True, False, False, True]]
    # Scores may be negative: what is dead counts nothing, but no unit overtakes the one before it.
    signed = units_of(
        torch.tensor([[-1.0, -1.5], [-1, 99]]), FanIn(), torch.tensor([[True, True], [True, False]])
    )
    assert signed.scores.tolist() == [-1.0, -1.0] and signed.sizes.tolist() == [2, 1]
    # Two outputs with very unequal scores: the second best of both outlives the third best of the first.
    assert units_of(torch.tensor([[9.0, 8, 7], [3, 1, 0]]), FanIn()).scores.tolist() == [6.0, 4.5, 3.5]


CONV = torch.arange(1.0, 49).reshape(4, 3, 2, 2)  # 4 filters of 3 channels of 2 x 2.
LINEAR = torch.arange(1.0, 13).reshape(4, 3)


@pytest.mark.parametrize("weight", [CONV, LINEAR], ids=["conv", "linear"])
@pytest.mark.parametrize(("name", "dim", "count"), [("filters", 0, 4), ("rows", 0, 4), ("columns", 1, 3)])
def test_whole_outputs_and_inputs_go_by_their_mean(weight: Tensor, name: str, dim: int, count: int) -> None:
    shuffled = weight.flatten()[torch.randperm(weight.numel())].reshape(weight.shape)
    others = [other for other in range(weight.dim()) if other != dim]
    means = shuffled.double().mean(dim=others)
    for keep in range(1, count):
        expected = torch.zeros(count, dtype=torch.bool)
        expected[means.sort(descending=True).indices[:keep]] = True
        mask = top_blocks(shuffled, name, keep)
        assert torch.equal(mask.movedim(dim, 0).flatten(1).all(dim=1), expected)
        assert int(mask.sum()) == keep * weight.numel() // count


def test_kernels_are_the_taps_of_one_input_channel_of_one_filter() -> None:
    mask = top_blocks(CONV, "kernels", 2)
    expected = torch.zeros(4, 3, dtype=torch.bool)
    expected[3, 1:] = True
    assert torch.equal(mask, expected[:, :, None, None].expand(CONV.shape))
    # Two filters by two channels: the third channel makes ragged blocks, and the last of them is best.
    assert top_blocks(CONV, Block(2, 2, kernels=True), 1).nonzero()[:, :2].unique(dim=0).tolist() == [
        [2, 2],
        [3, 2],
    ]


def test_blocks_larger_than_the_weight_are_clipped() -> None:
    for block in ((16, 1), Block(16, 1), Block(None, 1)):
        assert units_of(LINEAR, block).cell == (4, 1)
    assert as_structure([2, 3]) == Block(2, 3)


@pytest.mark.parametrize("block", [(64, 16), Block(None, None), Block(5, None)])
def test_a_block_that_holds_the_whole_weight_is_refused_where_something_is_to_go(block: Any) -> None:
    """Half of its only unit, rounded to whole ones, is all of it: nothing would be dropped, in silence."""
    model = nn.Sequential(nn.Linear(6, 4))
    with pytest.raises(ValueError, match=r"0.weight: a block smaller than its shape \(4, 6\) is expected"):
        prune_(model, 0.5, block=block)
    assert not masks_of(model)
    assert prune_(model, 0.0, block=block)["0.weight"].all()


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 2, 2)])
def test_poolings_agree_with_plain_slicing(shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape)
    matrix = scores.double().flatten(1)
    pooled = {name: block_scores(scores, (2, 4), name) for name in ("mean", "sum", "max")}
    for row, col in itertools.product(range(3), range(-(-matrix.shape[1] // 4))):
        part = matrix[2 * row : 2 * row + 2, 4 * col : 4 * col + 4]
        assert float(pooled["mean"][row, col]) == pytest.approx(float(part.mean()))
        assert float(pooled["sum"][row, col]) == pytest.approx(float(part.sum()))
        assert float(pooled["max"][row, col]) == float(part.max())
    best = top_blocks(torch.tensor([[5.0, 0, 3, 3]]), Block(1, 2, pooling="max"), 1)
    assert best.tolist() == [[True, True, False, False]]
