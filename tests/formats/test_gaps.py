"""The places of blocks as bytes: there and back, and nothing but a ValueError from malformed ones."""

from __future__ import annotations

import pytest
import torch
import truth
from torch import Tensor

from sparsekern.formats import BlockSparse, from_gaps, to_gaps
from sparsekern.masks import grid


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize(("n", "k", "block"), [(1, 1, (1, 1)), (61, 777, (1, 1)), (61, 777, (16, 4))])
def test_gaps_come_back(n: int, k: int, block: tuple[int, int], sparsity: float) -> None:
    if block[0] > n:
        pytest.skip("the block is larger than the matrix")
    weight = truth.masked_weight(n, k, block, sparsity, torch.Generator().manual_seed(2))
    matrix = BlockSparse.from_dense(weight, block)
    stream = to_gaps(matrix)
    crow, col = from_gaps(stream, matrix.shape, block)
    assert torch.equal(crow, matrix.crow) and torch.equal(col, matrix.col)
    rows, columns = grid((n, k), block)
    assert stream.numel() <= matrix.nnz + rows * columns // 255


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (torch.tensor([6], dtype=torch.uint8), "leads to block 6; expected one of 2 x 3 blocks"),
        (torch.tensor([255, 0], dtype=torch.uint8), "leads to block 255"),
        (torch.tensor([0, 255], dtype=torch.uint8), "ends within a gap"),
        (torch.tensor([0.0]), "expected uint8 of one dimension, got torch.float32"),
        (torch.zeros(2, 2, dtype=torch.uint8), r"got torch.uint8 \(2, 2\)"),
    ],
)
def test_malformed_gaps_are_refused(stream: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_gaps(stream, (4, 6), (2, 2))
