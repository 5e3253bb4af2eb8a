"""The dense network of a ticket's time: wide for a slow ticket, narrow for a fast one; a run trains it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsekern.cli import main, narrow
from sparsekern.cli.narrow import STEPS, width_of_equal_time


def hidden(width: float) -> nn.Module:
    return nn.Sequential(nn.Linear(64, max(1, round(128 * width))), nn.ReLU())


@pytest.mark.parametrize("limit", [1, 7, 8, 31, 32])
def test_the_widest_that_is_no_slower_is_found(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_fast(dense: nn.Module, *_: object) -> bool:
        rows: int = dense.get_parameter("0.weight").shape[0]
        return rows <= 128 * limit / STEPS

    monkeypatch.setattr(narrow, "_as_fast", as_fast)
    assert width_of_equal_time(hidden(1.0), hidden, torch.randn(4, 64)) == limit / STEPS


def test_the_clock_tells_wide_from_narrow() -> None:
    def network(width: float) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, round(2048 * width)), nn.ReLU(), nn.Linear(round(2048 * width), 2048)
        )

    x = torch.randn(64, 64)
    with torch.inference_mode():
        assert narrow._as_fast(network(1 / STEPS), network(1.0), x)
        assert not narrow._as_fast(network(1.0), network(1 / STEPS), x)


def test_a_run_trains_it(tmp_path: Path) -> None:
    arguments = ["run", "--rounds", "1", "--iterations", "20", "--block", "8x1", "--batch", "16", "--narrow"]
    assert main([*arguments, "--quiet", "--out", str(tmp_path)]) == 0
    (entry,) = json.loads((tmp_path / "report.json").read_text())["structures"]
    assert 0 < entry["narrow"]["width"] <= 1 and 0 < entry["narrow"]["accuracy"] < 1
    assert "A dense network that takes as long" in (tmp_path / "report.html").read_text()
