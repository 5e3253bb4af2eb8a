"""The panels kernel multiplies with a copy of the values: it must never be a copy of what they were."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import sparsekern as sk
from sparsekern import _core
from sparsekern.formats import BlockSparse
from sparsekern.kernels import cpu
from sparsekern.kernels.select import PackedWeight

ROWS = 128


def sparse(n: int, k: int, sparsity: float, block: tuple[int, int] = (1, 1)) -> BlockSparse:
    generator = torch.Generator().manual_seed(n + k)
    dense = torch.randn(n, k, generator=generator) * (torch.rand(n, k, generator=generator) >= sparsity)
    return BlockSparse.from_dense(dense, block)


def layer() -> sk.SparseLinear:
    return sk.SparseLinear(sparse(64, 512, 0.5))


def test_many_rows_run_on_panels() -> None:
    assert layer().variant(ROWS) == "panels"


def _swap_two(values: Tensor) -> None:
    values[[3, 67]] = values[[67, 3]]


WRITES: dict[str, Callable[[Tensor], object]] = {
    "negated": lambda values: values.neg_(),
    "doubled": lambda values: values.mul_(2),
    "two swapped": _swap_two,
    "reversed": lambda values: values.copy_(values.flip(0)),
    "one step of one value": lambda values: values[5].copy_(torch.nextafter(values[5], values[5] + 1)),
    "the last to zero": lambda values: values[-1].zero_(),
    "two changed, their sum not": lambda values: values[8:10].copy_(
        values[8:10] + torch.tensor([[[1.0]], [[-1.0]]])
    ),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_no_version_counter_sees_shows_in_the_next_product(write: str, isa: str) -> None:
    sparse_layer, x = layer(), torch.randn(ROWS, 512)
    with torch.no_grad():
        sparse_layer(x)
        version = sparse_layer.values._version
        WRITES[write](sparse_layer.values.data)
        assert sparse_layer.values._version == version
        got = sparse_layer(x)
        fresh = sk.SparseLinear(sparse_layer.matrix)(x)
    assert torch.equal(got, fresh)


def test_copies_and_the_state_dict_do_not_share_a_copy() -> None:
    one, x = layer(), torch.randn(ROWS, 512)
    with torch.no_grad():
        before = one(x)
        two = copy.deepcopy(one)
        two.values.mul_(2)
        assert torch.equal(two(x), 2 * before) and torch.equal(one(x), before)
        one.load_state_dict(two.state_dict())
        assert torch.equal(one(x), 2 * before)


def test_one_index_with_other_values_in_every_thread() -> None:
    """Functional calls: many threads, one index, values of their own."""
    weight, x = sparse(96, 256, 0.8), torch.randn(ROWS, 256)
    index = cpu.linear.pack(weight)
    packed = [
        PackedWeight(weight.values * scale, None, weight.crow, weight.col, index, 96, 256)
        for scale in (1, 2, 4)
    ]
    want = cpu.linear.run(x, packed[0])

    def wrong(scale: int) -> int:
        return sum(not torch.equal(cpu.linear.run(x, packed[scale]), want * 2**scale) for _ in range(50))

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(wrong, range(3))) == 0


@pytest.mark.parametrize(
    ("block", "dtype", "from_sparsity"),
    [
        ((1, 1), torch.float32, 0.75),
        ((2, 1), torch.float32, 0.64),
        ((3, 1), torch.float32, 0.6),
        ((4, 1), torch.float32, 0.25),
        ((16, 1), torch.float32, 0.1),
        ((1, 1), torch.bfloat16, 0.86),
        ((16, 1), torch.bfloat16, 0.15),
    ],
    ids=str,
)
def test_a_plan_is_smaller_than_the_dense_weight(
    block: tuple[int, int], dtype: torch.dtype, from_sparsity: float
) -> None:
    """Values, places and index together, as docs/measured.md has it; the index alone from break-even on."""
    for n, k in ((768, 768), (300, 784), (4096, 512)):
        for sparsity in (0.55, from_sparsity, 0.9, 0.98):
            generator = torch.Generator().manual_seed(1)
            alive = torch.rand(-(-n // block[0]), k, generator=generator) >= sparsity
            dense = torch.ones(n, k, dtype=dtype) * alive.repeat_interleave(block[0], 0)[:n]
            weight = sk.SparseLinear(BlockSparse.from_dense(dense, block))
            assert weight.index.nbytes <= dense.nbytes or dtype is torch.bfloat16
            if sparsity >= from_sparsity:
                assert weight.weight_nbytes <= dense.nbytes


def test_tall_blocks_have_no_index() -> None:
    assert cpu.linear.pack(sparse(16, 8, 0.5, (4, 1))).numel() == 0
    assert _core.PANEL_HEIGHT == 3


@pytest.mark.parametrize("kernel", ["panels", "rows"])
@pytest.mark.parametrize("block", [(2, 1), (3, 1), (5, 1)])
def test_padding_of_a_ragged_block_shows_in_no_gradient(block: tuple[int, int], kernel: str) -> None:
    weight = sparse(7, 20, 0.3, block)
    beyond = weight.block_row()[:, None] * block[0] + torch.arange(block[0]) >= 7
    weight.values[beyond[:, :, None]] = float("nan")
    index = cpu.linear.pack(weight) if kernel == "panels" else torch.empty(0, dtype=torch.int32)
    packed = PackedWeight(weight.values, None, weight.crow, weight.col, index, 7, 20)
    grad, x = torch.randn(70, 7), torch.randn(70, 20)
    x[3, 4] = float("inf")
    assert cpu.linear.grad_input(grad, packed).isfinite().all()
    assert not cpu.linear.grad_values(grad, x, packed)[beyond].any()


def test_indices_that_were_written_are_refused_before_they_are_read() -> None:
    weight = sparse(7, 20, 0.3)
    for name, at, value, words in (
        ("col", 3, 20, r"col: expected in \[0, 20\), got 20"),
        ("col", 3, 0, "col: expected to rise within a block row"),
        ("crow", 2, 10**6, "crow: expected to rise"),
        ("crow", 7, 10**6, "do not belong"),
    ):
        tensors = {"crow": weight.crow.clone(), "col": weight.col.clone()}
        tensors[name][at] = value
        with pytest.raises(ValueError, match=words):
            _core.panel_index(tensors["crow"].numpy(), tensors["col"].numpy(), 7, 20, 1)


def test_no_cast_and_no_average_touches_the_indices() -> None:
    one, x = layer(), torch.randn(ROWS, 512)
    with torch.no_grad():
        want = one(x)
        one.type(torch.float32)
        assert torch.equal(one(x), want)
        one.type(torch.bfloat16)
        torch.testing.assert_close(one(x.bfloat16()).float(), want, rtol=0.05, atol=0.3)
        one = layer()
        averaged = torch.optim.swa_utils.AveragedModel(one, use_buffers=True)
        for _ in range(3):
            averaged.update_parameters(one)
        torch.testing.assert_close(averaged(x), one(x))
