"""Choosing blocks: exact counts at ties, nesting, whole blocks only."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsekern.masks import expand, grid, pool
from sparsekern.prune import top_blocks
from sparsekern.prune.structure import block_scores


@st.composite
def tied_layers(draw: st.DrawFn) -> tuple[Tensor, tuple[int, int], int, int]:
    """Scores of few distinct values, a block, and two numbers of blocks, the second not above the first."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    block = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    values = draw(st.lists(st.integers(0, 2), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    blocks = grid(shape, block)[0] * grid(shape, block)[1]
    first = draw(st.integers(0, blocks))
    return torch.tensor(values, dtype=torch.float32).reshape(shape), block, first, draw(st.integers(0, first))


@settings(max_examples=60)
@given(tied_layers())
def test_counts_are_exact_blocks_are_whole_and_masks_nest(
    case: tuple[Tensor, tuple[int, int], int, int],
) -> None:
    scores, block, first, second = case
    outer = top_blocks(scores, block, first)
    inner = top_blocks(scores, block, second, alive=outer)
    for mask, count in ((outer, first), (inner, second)):
        block_mask = pool(mask, block) > 0
        assert int(block_mask.sum()) == count
        assert torch.equal(expand(block_mask, scores.shape, block), mask)
    assert not bool((inner & ~outer).any())
    means = block_scores(scores, block)
    kept, dropped = means[pool(outer, block) > 0], means[pool(outer, block) == 0]
    assert not (kept.numel() and dropped.numel()) or kept.min() >= dropped.max()


def test_of_equal_blocks_the_lower_index_stays() -> None:
    assert top_blocks(torch.ones(2, 3), (1, 1), 4).tolist() == [[True, True, True], [True, False, False]]
    alive = torch.tensor([[False, True, True], [True, True, True]])
    assert top_blocks(torch.ones(2, 3), (1, 1), 2, alive).tolist() == [[False, True, True], [False] * 3]


def test_a_ragged_block_is_judged_by_its_mean() -> None:
    scores = torch.tensor([[1.0], [1.0], [1.0], [1.5]])
    assert block_scores(scores, (3, 1)).tolist() == [[1.0], [1.5]]
    assert top_blocks(scores, (3, 1), 1).flatten().tolist() == [False, False, False, True]


def test_dead_elements_of_a_living_block_stay_dead() -> None:
    alive = torch.tensor([[True, False, True, True]])
    assert top_blocks(torch.ones(1, 4), (1, 2), 2, alive).tolist() == alive.tolist()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="got 1 NaN of 4"):
        top_blocks(torch.tensor([[0.0, float("nan")], [1.0, 2.0]]), (1, 1), 2)
    with pytest.raises(ValueError, match="between 0 and the 4 units alive, got 5"):
        top_blocks(torch.ones(2, 2), (1, 1), 5)
    with pytest.raises(ValueError, match=r"alive must be bool of shape \(2, 2\), got torch.float32"):
        top_blocks(torch.ones(2, 2), (1, 1), 1, torch.ones(2, 2))
