"""A sweep combines its lists, runs each search once, goes on where it stopped, and ends in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsekern.cli import main
from sparsekern.cli.sweep import combinations

TEXT = """
seeds = 1
blocks = ["unstructured"]

[recipe]
iterations = 4
eval_every = 2

[search]
rounds = 1

[sweep]
"search.rate" = [0.1, 0.3]
"""


def test_lists_are_combined() -> None:
    axes = {"search.rate": [0.1, 0.2], "model": ["lenet300"], "recipe.drops": [[1, 2]]}
    found = dict(combinations(axes, {"recipe": {"lr": 0.1}}))
    assert len(found) == 2 and found["search.rate=0.2, model=lenet300, recipe.drops=[1, 2]"] == {
        "search": {"rate": 0.2},
        "model": "lenet300",
        "recipe": {"lr": 0.1, "drops": (1, 2)},
    }
    assert list(combinations({}, {"seeds": 3})) == [("all", {"seeds": 3})]
    for axes, message in (
        ({"search.rate": 0.1}, "a list of values"),
        ({"search.seed": [1]}, "not an axis"),
        ({"serach.rate": [0.1]}, "unknown keys .'serach'."),
        ({"search.rat": [0.1]}, "unknown keys .'rat'."),
    ):
        with pytest.raises(ValueError, match=message):
            list(combinations(axes, {}))


def test_a_sweep_ends_in_one_table_and_trains_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit", reason="the engine of sweeps is the extra sweep")
    file, out = tmp_path / "my.toml", tmp_path / "out"
    file.write_text(TEXT)
    assert main(["sweep", str(file), "--out", str(out)]) == 0
    rows = json.loads((out / "sweep.json").read_text())["rows"]
    assert [(row["what"], row["round"]) for row in rows] == [
        ("search.rate=0.1", 0),
        ("search.rate=0.1", 1),
        ("search.rate=0.3", 0),
        ("search.rate=0.3", 1),
    ]
    assert all(len(row["accuracy"]) == 1 for row in rows)
    assert rows[3]["sparsity"] == pytest.approx(0.3, abs=0.002) and len(rows[3]["controls"]["reinit"]) == 1
    assert "| search.rate=0.3 | 1x1 | 1 |" in capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in (out / "rounds").rglob("*.safetensors")}
    assert len(stamps) == 6
    assert main(["sweep", str(file), "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_sweep_that_cannot_work_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[sweep]\n'search.rate' = [2.0]\n")
    assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "rate" in capsys.readouterr().err and not (tmp_path / "out").exists()
