"""Inputs that no weight reads are not packed: the index lists the columns that are alive."""

from __future__ import annotations

import pytest
import torch
import truth
from torch import Tensor

import sparsekern as sk
from sparsekern.formats import BlockSparse
from sparsekern.kernels import cpu
from sparsekern.kernels.select import PackedWeight

N, K = 75, 300
DEAD = {
    "every other": torch.arange(K) % 2 == 1,
    "the first half": torch.arange(K) < K // 2,
    "all but one": torch.arange(K) != 131,
    "all": torch.ones(K, dtype=torch.bool),
    "the last": torch.arange(K) == K - 1,
}
HEADER = 16  # words; the eleventh is the number of live columns


def weight(dead: Tensor, v: int) -> tuple[BlockSparse, Tensor]:
    generator = torch.Generator().manual_seed(v)
    dense = truth.masked_weight(N, K, (v, 1), 0.6, generator)
    dense[:, dead] = 0
    return BlockSparse.from_dense(dense.float(), (v, 1)), dense.float().double()


@pytest.mark.parametrize("v", [1, 2, 3, 5, 8, 16, 32])
@pytest.mark.parametrize("dead", DEAD)
def test_products_and_gradients_without_dead_columns(dead: str, v: int, isa: str) -> None:
    sparse, dense = weight(DEAD[dead], v)
    index = cpu.linear.pack(sparse)
    packed = PackedWeight(sparse.values, None, sparse.crow, sparse.col, index, N, K)
    for rows in (1, 3, 16, 17, 70):
        x, grad = torch.randn(rows, K), torch.randn(rows, N)
        x[:, DEAD[dead]] = float("nan")  # they are not read
        y, to_x = cpu.linear.run(x, packed), cpu.linear.grad_input(grad, packed)
        to_values = cpu.linear.grad_values(grad, x, packed)
        x[:, DEAD[dead]] = 0
        truth.assert_close(y, truth.linear(x, dense, None), truth.bound(x, dense, None, torch.float32))
        bound = truth.bound(grad, dense.T, None, torch.float32)
        truth.assert_close(to_x, grad.double() @ dense, bound)
        want = sparse.sample((grad.double().T @ x.double()).float())
        torch.testing.assert_close(to_values, want, rtol=1e-4, atol=1e-4)


def test_the_index_lists_what_is_alive() -> None:
    sparse, dense = weight(DEAD["every other"], 1)
    index = cpu.linear.pack(sparse)
    alive = (dense != 0).any(0).nonzero().flatten()
    assert index[10] == len(alive)
    assert torch.equal(index[HEADER : HEADER + len(alive)].long(), alive)


def test_a_tall_block_has_an_index_only_where_columns_are_dead() -> None:
    dense = torch.ones(64, 64)
    for dead, words in ((0, 0), (3, 0), (4, HEADER + 60 + 2 * 60)):  # one in sixteen pays
        dense[:, :dead] = 0
        index = cpu.linear.pack(BlockSparse.from_dense(dense, (32, 1)))
        assert index.numel() == -(-words // 16) * 16


@pytest.mark.parametrize("block", [(1, 1), (8, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dead_channels_are_not_read(layout: torch.memory_format, block: tuple[int, int], isa: str) -> None:
    conv = torch.nn.Conv2d(20, 24, 3, padding=1)
    dead = torch.arange(20) % 3 == 1
    with torch.no_grad():
        conv.weight[:, dead] = 0
    x = torch.randn(3, 20, 9, 7).contiguous(memory_format=layout)
    want = conv(x)
    x[:, dead] = float("nan")
    assert conv(x).isnan().any()
    torch.testing.assert_close(sk.SparseConv2d.from_dense(conv, block)(x), want, rtol=1e-4, atol=1e-5)
