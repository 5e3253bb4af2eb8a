"""The dense network of a ticket's time: wide for a slow ticket, narrow for a fast one; a run trains it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ticket_checks import same
from torch import nn

from sparsekern.cli import main, narrow
from sparsekern.cli.narrow import STEPS, width_of_equal_time
from sparsekern.cli.prove import Proof, prove
from sparsekern.tickets import files
from sparsekern.tickets.stepper import copy_state


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


def test_a_run_trains_it_and_proves_the_ticket_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proved = []

    def spy(model: nn.Module, *rest: Any) -> Proof:
        proved.append(copy_state(model))
        return prove(model, *rest)

    monkeypatch.setattr("sparsekern.cli.run.prove", spy)
    arguments = ["run", "--rounds", "1", "--iterations", "20", "--structure", "unstructured", "--batch", "16"]
    arguments += ["--narrow", "--controls", "regroup:8x1"]
    assert main([*arguments, "--quiet", "--out", str(tmp_path)]) == 0
    (entry,) = json.loads((tmp_path / "report.json").read_text())["structures"]
    assert 0 < entry["narrow"]["width"] <= 1 and 0 < entry["narrow"]["accuracy"] < 1
    assert "A dense network that takes as long" in (tmp_path / "report.html").read_text()
    ((control, (regrouped,)),) = entry["regrouped"].items()
    assert (control, regrouped["round"]) == ("regroup:8x1", 1) and regrouped["time_sparse_us"] > 0
    (path,) = (tmp_path / "rounds").glob("*/regroup-8x1-01.safetensors")
    tensors, header = files.read(path, "round")
    assert regrouped["accuracy"] == header["test_accuracy"] and regrouped["seeds"] == [
        header["test_accuracy"]
    ]
    assert len(proved) == 3 and same(proved[2], files.group(tensors, "state"))
    assert 0 < regrouped["sparsity"] < entry["rounds"][1]["sparsity"]  # dead weights in blocks live again
