"""Block arithmetic, against loops that are too simple to be wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsekern.masks import expand, fit_block, grid, pool

sizes = st.integers(1, 9)


@given(sizes, sizes, sizes, sizes)
def test_pool_and_expand_agree_with_plain_slicing(out: int, rest: int, high: int, wide: int) -> None:
    scores = torch.arange(out * rest, dtype=torch.float32).reshape(out, rest)
    pooled = pool(scores, (high, wide))
    block_mask = (torch.arange(pooled.numel()).reshape(pooled.shape) % 2).bool()
    mask = expand(block_mask, scores.shape, (high, wide))
    high, wide = fit_block((high, wide), scores.shape)
    assert tuple(pooled.shape) == grid(scores.shape, (high, wide)) == (-(-out // high), -(-rest // wide))
    for row in range(pooled.shape[0]):
        for col in range(pooled.shape[1]):
            here = (slice(row * high, (row + 1) * high), slice(col * wide, (col + 1) * wide))
            assert pooled[row, col] == scores[here].sum()
            assert bool((mask[here] == block_mask[row, col]).all())


def test_a_ragged_edge_counts_only_what_is_there() -> None:
    assert pool(torch.ones(100, 3, dtype=torch.bool), (16, 2)).tolist() == [[32, 16]] * 6 + [[8, 4]]


def test_a_convolution_is_a_matrix_of_outputs_by_the_rest() -> None:
    weight = torch.randn(6, 3, 3, 3)
    assert grid(weight.shape, (4, 9)) == (2, 3)
    torch.testing.assert_close(pool(weight, (4, 9))[0, 1], weight[:4, 1].double().sum())
    mask = expand(torch.tensor([[True, False, True], [False, False, False]]), weight.shape, (4, 9))
    assert mask.shape == weight.shape
    assert mask[:4, 0].all() and not mask[:4, 1].any() and mask[:4, 2].all() and not mask[4:].any()


@pytest.mark.parametrize(
    ("block", "fitted"), [((16, 1), (10, 1)), ((4, 999), (4, 100)), ((10, 100), (10, 100)), ((1, 1), (1, 1))]
)
def test_a_block_larger_than_the_layer_is_clipped(block: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fit_block(block, (10, 100)) == fitted


@pytest.mark.parametrize("block", [(0, 1), (1, -2), (1,), (1, 2, 3), (1.0, 1), (True, 1)])
def test_a_block_must_be_two_positive_ints(block: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two positive ints"):
        fit_block(block, (4, 4))


def test_errors_name_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"two dimensions is expected, got shape \(5,\)"):
        grid((5,), (1, 1))
    with pytest.raises(ValueError, match=r"bool of shape \(2, 1\).*got torch.bool of shape \(1, 1\)"):
        expand(torch.ones(1, 1, dtype=torch.bool), (4, 2), (2, 2))
    with pytest.raises(ValueError, match=r"got torch.float32"):
        expand(torch.ones(2, 1), (4, 2), (2, 2))
