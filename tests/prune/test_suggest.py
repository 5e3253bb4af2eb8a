"""suggest_block: what each block keeps, on times that are given; verdicts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import mask_, pool, timer
from sparsekern.prune import prune_
from sparsekern.prune.suggest import BlockChoice, BlockTable, suggest_block

SPARSE_US = {(1, 1): 50.0, (4, 1): 20.0, (8, 1): 20.0, (8, 4): 10.0, (16, 1): 99.0}


def given(layer: nn.Module, mask: Tensor, block: tuple[int, int], x: Tensor) -> tuple[float, float] | str:
    """Times from a table; what it is called with is checked on the way."""
    assert mask.shape == layer.weight.shape and mask.dtype == torch.bool and x.shape[-1] == mask.shape[1]
    assert not torch.is_grad_enabled()
    return "too few outputs" if mask.shape[0] < 16 else (100.0, SPARSE_US[block])


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "default", None)


@pytest.fixture(scope="module")
def table() -> BlockTable:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    prune_(model, 0.75)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = suggest_block(model, torch.randn(5, 24), tuple(SPARSE_US), time=given)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return found


def test_every_layer_has_every_block_in_the_models_order(table: BlockTable) -> None:
    expected = [
        (name, (min(block[0], outputs), block[1]))
        for name, outputs in (("0.weight", 64), ("2.weight", 32), ("4.weight", 8))
        for block in SPARSE_US
    ]
    assert [(row.name, row.block) for row in table.rows] == expected
    assert all(row.density == pytest.approx(0.25, abs=0.02) for row in table.rows)


def test_larger_blocks_keep_less(table: BlockTable) -> None:
    kept = {row.block: row.kept for row in table.rows if row.name == "2.weight"}
    assert kept[1, 1] == 1
    assert 1 > kept[4, 1] > kept[8, 1] > kept[16, 1] > 0.25
    assert kept[8, 1] > kept[8, 4] > 0.25


def test_verdicts(table: BlockTable) -> None:
    verdicts = {row.block: row.verdict for row in table.rows if row.name == "2.weight"}
    assert verdicts == {
        (1, 1): "worth it",
        (4, 1): "worth it",
        (8, 1): "4x1 is as fast and keeps as much",
        (8, 4): "worth it",
        (16, 1): "less than 5% faster than dense",
    }
    assert {row.verdict for row in table.rows if row.name == "4.weight"} == {"too few outputs"}
    assert table.rows[1].speedup == 5 and table.rows[-1].speedup is None


def test_the_fastest_that_keeps_enough(table: BlockTable) -> None:
    assert table.fastest(0) == {"0.weight": (8, 4), "2.weight": (8, 4)}
    assert table.fastest(0.999) == {"0.weight": (1, 1), "2.weight": (1, 1)}
    few = BlockTable((BlockChoice("a.weight", (1, 1), 0.5, 1.0, 100.0, 99.0),))
    assert few.fastest(0) == {}


def test_it_prints_itself(table: BlockTable) -> None:
    lines = str(table).splitlines()
    assert lines[0].split() == [
        "layer",
        "block",
        "density",
        "kept",
        "dense",
        "us",
        "sparse",
        "us",
        "speed-up",
        "verdict",
    ]
    assert lines[2].split() == ["0.weight", "1x1", "25.0%", "100.0%", "100.0", "50.0", "2.00", "worth", "it"]
    assert lines[-1].endswith("too few outputs") and len(lines) == 2 + 15


def test_what_is_kept_is_that_of_the_best_blocks() -> None:
    model = nn.Sequential(nn.Linear(6, 8))
    mask_(model[0], torch.rand(8, 6) < 0.5)
    weight = model[0].weight.detach().abs().double()
    (row,) = suggest_block(model, torch.randn(2, 6), [(4, 1)], sparsity=0.75, permute=False).rows
    best = weight.reshape(2, 4, 6).sum(1).flatten().topk(3).values.sum()
    assert row.kept == pytest.approx(float(best / weight.sum())) and row.density == 0.25
    assert row.verdict == "not timed" and row.speedup is None
    assert pool(weight, (4, 1)).shape == (2, 6)


def test_units_are_put_in_order_first() -> None:
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    mask_(model[0], (torch.rand(8, 12) < 0.25).repeat_interleave(4, 0)[torch.randperm(32)])
    (moved,) = suggest_block(model, torch.randn(2, 12), [(4, 1)]).rows
    (stayed,) = suggest_block(model, torch.randn(2, 12), [(4, 1)], permute=False).rows
    assert moved.kept > 0.9 > 0.8 > stayed.kept


def test_the_package_may_set_what_times(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(12, 32))
    monkeypatch.setattr(timer, "default", lambda layer, mask, block, x: (6.0, 2.0))
    (row,) = suggest_block(model, torch.randn(2, 12), [(4, 1)], sparsity=0.5, permute=False).rows
    assert row.speedup == 3 and row.verdict == "worth it"


def test_what_cannot_be_traced_or_reached_says_so() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.used(x) if x.sum() > 0 else self.other(x)
            return result

    found = suggest_block(Branches(), torch.ones(1, 4), [(2, 1)], sparsity=0.5, time=lambda *_: (2.0, 1.0))
    assert found.reason.startswith("hidden units were not put in order: Branches cannot be traced")
    assert [row.verdict for row in found.rows] == [
        "worth it",
        "not timed: the example inputs never reach it",
    ]
    assert str(found).endswith(found.reason)


def test_wrong_arguments_are_refused() -> None:
    model, x = zoo.model("lenet300"), torch.randn(1, 784)
    for arguments, message in [
        ({"blocks": ()}, "at least one block"),
        ({"blocks": [(0, 1)], "sparsity": 0.5}, r"two positive ints \(out, in\), got \(0, 1\)"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({}, "LeNet300 has no masked layer"),
        ({"sparsity": 0.999, "blocks": [(64, 64)]}, "layer fc.*weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            suggest_block(model, x, permute=False, **arguments)
