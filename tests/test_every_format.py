"""Every format of the table: round trips, and damage of each kind refused in words."""

from __future__ import annotations

import pytest
import torch
import truth
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekern.formats import FORMATS, BlockSparse

ALL = pytest.mark.parametrize("fmt", FORMATS)


@ALL
@pytest.mark.parametrize("case", truth.CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_round_trip(fmt: type[BlockSparse], case: truth.Case, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    dense = truth.masked_weight(case.n, case.k, case.block, case.sparsity, generator).to(dtype)
    sparse = fmt.from_dense(dense, case.block)
    assert torch.equal(sparse.to_dense(), dense)
    assert sparse.values.dtype is dtype
    assert torch.equal(sparse.mask() & (dense != 0), dense != 0)


@ALL
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_mask_round_trips(fmt: type[BlockSparse], data: st.DataObject) -> None:
    n, k = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    block = data.draw(st.integers(1, n)), data.draw(st.integers(1, k))
    share = data.draw(st.floats(0, 1))
    mask = torch.rand(n, k, generator=torch.Generator().manual_seed(n * k)) < share
    dense = torch.arange(1.0, n * k + 1).view(n, k)
    sparse = fmt.from_dense(dense, block, mask)
    assert torch.equal(sparse.to_dense(), torch.where(mask, dense, 0.0))
    fmt(sparse.shape, sparse.block, sparse.crow, sparse.col, sparse.values)  # what it makes, it accepts
    assert sparse.nnz == len({(int(i) // block[0], int(j) // block[1]) for i, j in mask.nonzero()})


@pytest.mark.filterwarnings("ignore:Sparse BSR tensor support is in beta")
def test_it_is_torchs_own_bsr_layout() -> None:
    dense = truth.masked_weight(32, 24, (4, 3), 0.6, torch.Generator().manual_seed(2))
    ours, theirs = BlockSparse.from_dense(dense, (4, 3)), dense.to_sparse_bsr((4, 3))
    assert torch.equal(ours.crow, theirs.crow_indices().int())
    assert torch.equal(ours.col, theirs.col_indices().int())
    assert torch.equal(ours.values, theirs.values())


def good() -> dict[str, object]:
    return {
        "shape": (6, 5),
        "block": (2, 1),
        "crow": torch.tensor([0, 2, 2, 4], dtype=torch.int32),
        "col": torch.tensor([0, 3, 1, 4], dtype=torch.int32),
        "values": torch.ones(4, 2, 1),
    }


def i32(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


DAMAGE = {
    "shape negative": ({"shape": (-6, 5)}, r"shape: expected two ints .* got \(-6, 5\)"),
    "shape not ints": ({"shape": (6.0, 5)}, r"shape: expected two ints"),
    "shape beyond int32": ({"shape": (2**31, 5)}, r"shape: expected two ints"),
    "block zero": ({"block": (0, 1)}, r"block: expected two ints .* got \(0, 1\)"),
    "block too large": ({"block": (7, 1)}, r"block \(7, 1\) does not fit in shape \(6, 5\)"),
    "crow int64": (
        {"crow": torch.tensor([0, 2, 2, 4])},
        r"crow: expected contiguous int32 .* got torch.int64",
    ),
    "crow too short": ({"crow": i32(0, 2, 4)}, r"crow: expected 4 entries for 3 block rows, got 3"),
    "crow not from zero": ({"crow": i32(1, 2, 2, 4)}, r"crow: expected to run from 0 to 4 .* got 1 to 4"),
    "crow beyond the end": ({"crow": i32(0, 2, 2, 5)}, r"crow: expected to run from 0 to 4 .* got 0 to 5"),
    "crow falling": ({"crow": i32(0, 3, 2, 4)}, r"crow: falls from 3 to 2 at block row 1"),
    "crow negative inside": ({"crow": i32(0, -1, 2, 4)}, r"crow: falls from 0 to -1 at block row 0"),
    "crow two-dimensional": (
        {"crow": i32(0, 2, 2, 4).view(1, 4)},
        r"crow: expected contiguous int32 of one dimension",
    ),
    "col negative": ({"col": i32(-1, 3, 1, 4)}, r"col\[0\] = -1: expected a block column in \[0, 5\)"),
    "col too large": ({"col": i32(0, 3, 1, 5)}, r"col\[3\] = 5: expected a block column in \[0, 5\)"),
    "col unsorted": ({"col": i32(3, 0, 1, 4)}, r"col\[0\] = 3, col\[1\] = 0 in one block row"),
    "col twice": ({"col": i32(3, 3, 1, 4)}, r"col\[0\] = 3, col\[1\] = 3 in one block row"),
    "col float": ({"col": torch.tensor([0.0, 3, 1, 4])}, r"col: expected contiguous int32"),
    "col strided": (
        {"col": i32(0, 9, 3, 9, 1, 9, 4, 9)[::2]},
        r"col: expected contiguous .* \(not contiguous\)",
    ),
    "values too few": ({"values": torch.ones(3, 2, 1)}, r"values: expected contiguous \(4, 2, 1\)"),
    "values other block": ({"values": torch.ones(4, 1, 2)}, r"values: expected contiguous \(4, 2, 1\)"),
    "values int": (
        {"values": torch.ones(4, 2, 1, dtype=torch.int64)},
        r"values: expected .* got torch.int64",
    ),
    "devices differ": ({"values": torch.ones(4, 2, 1, device="meta")}, r"crow is on cpu, values on meta"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_in_words(kind: str) -> None:
    BlockSparse(**good())  # type: ignore[arg-type]
    change, words = DAMAGE[kind]
    with pytest.raises(ValueError, match=words):
        BlockSparse(**(good() | change))  # type: ignore[arg-type]


def test_from_dense_refuses() -> None:
    with pytest.raises(ValueError, match=r"block \(16, 1\) does not fit in a weight of shape \(10, 4\)"):
        BlockSparse.from_dense(torch.ones(10, 4), (16, 1))
    with pytest.raises(ValueError, match=r"block must be two positive ints .* \(0, 1\)"):
        BlockSparse.from_dense(torch.ones(10, 4), (0, 1))
    with pytest.raises(ValueError, match=r"expected a bool mask of shape \(10, 4\); got torch.float32"):
        BlockSparse.from_dense(torch.ones(10, 4), (1, 1), torch.ones(10, 4))
    with pytest.raises(ValueError, match=r"expected a strided \(n, k\) weight .* got shape \(10,\)"):
        BlockSparse.from_dense(torch.ones(10))


def test_nan_and_infinity_are_kept() -> None:
    dense = torch.tensor([[0.0, float("nan")], [float("inf"), 0.0]])
    sparse = BlockSparse.from_dense(dense)
    assert sparse.nnz == 2
    assert torch.equal(sparse.to_dense().nan_to_num(7.0, 9.0), dense.nan_to_num(7.0, 9.0))


def test_sample_reads_what_to_dense_writes() -> None:
    dense = truth.masked_weight(37, 20, (5, 3), 0.5, torch.Generator().manual_seed(3))
    sparse = BlockSparse.from_dense(dense, (5, 3))
    assert torch.equal(sparse.sample(dense), sparse.values)
