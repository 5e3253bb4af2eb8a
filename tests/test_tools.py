"""The scripts that made what is kept here can be run again."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"
TABLES = ("one_shot_table", "regroup_masks", "regroup_tickets")


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_how_it_is_made(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        tool(name).main()
    assert "--out" in capsys.readouterr().out


@pytest.mark.slow
def test_regrouped_tickets_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps too few to learn anything: what is written is what the table in docs/ is read from."""
    out = tmp_path / "out.json"
    short = ["--data", "fashion-mnist-6k", "--iterations", "20", "--rounds", "1", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["regroup_tickets", *short, "--out", str(out)])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the tests after this one have theirs
    module = tool("regroup_tickets")
    monkeypatch.setattr(module, "BLOCKS", {"32x1": (32, 1)})
    module.main()
    rows = json.loads(out.read_text())["rows"]
    ways = [row["how"] for row in rows]
    assert ways == ["dense", "unstructured", "rounds", "regrouped", "in place", "at once"]
    densities = [row["density"] for row in rows if row["round"] == 1]
    assert max(densities) - min(densities) < 0.01
