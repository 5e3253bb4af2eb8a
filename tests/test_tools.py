"""The scripts that made what is kept here can be run again."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sparsekern.formats import BlockSparse
from sparsekern.kernels.cost import relative_cost

TOOLS = Path(__file__).parents[1] / "tools"
TABLES = ("one_shot_table", "regroup_masks", "regroup_tickets", "third_party_table")


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


def test_the_table_of_others_networks_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, out = tool("third_party_table"), tmp_path / "table.json"
    small = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 3))
    monkeypatch.setitem(module.SOURCES, "small", lambda _: (small, lambda batch: torch.randn(batch, 64)))
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)

    def run(*arguments: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["table", "--budget", "0.01", "--out", str(out), *arguments])
        module.main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    (first, _) = run("--only", "small:one", "--batch", "2")
    assert first["network"] == "small:one" and first["seconds"].keys() == {"swap", "compile", "timing"}
    assert [row["batch"] for row in run("--only", "small:one", "--batch", "2", "3")] == [3, 3]
    assert run("--only", "small:one", "--batch", "2") == []
    with pytest.raises(SystemExit, match="2"):
        run("--sparsity", "0.8")
    content = json.loads(out.read_text())
    content["rows"][0] |= {"slower_than_dense": True, "stayed_dense": {"0.39x (0.35 to 0.44): slower": 2}}
    text = module.markdown(content)
    assert "by more than 1 %: small:one, 1x1, batch 2, threads" in text and "| 2: slower |" in text
    assert out.with_suffix(".md").read_text().count("| small:one, ") == 4


@pytest.mark.parametrize(
    ("part", "head"),
    [
        ("--rounds=2", "| (1, 1), 80% |"),
        ("--backward", "| (4, 1) |"),
        ("--packing", "| (1, 1) |"),
        ("--threads=2", "| dense | 1024 |"),
    ],
)
def test_the_shares_of_linear_are_printed(
    part: str, head: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--shape", "32x48", "--block", "1x1", "4x1", "--sparsity", "0.8", "--budget", "0.01"]
    monkeypatch.setattr(sys, "argv", ["linear_shares", part, *small])
    tool("linear_shares").main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert "CPUs usable: " in lines[0] and "32 x 48" in lines[0] and any(row.startswith(head) for row in rows)
    assert len({row.count("|") for row in rows}) == 1 and "nan" not in "".join(rows)


def test_what_linear_shares_times_is_the_layer() -> None:
    module = tool("linear_shares")
    weight = module.packed((32, 48), (4, 1), 0.75)
    dense = BlockSparse.trusted((32, 48), weight.crow, weight.col, weight.values).to_dense()
    assert int((dense != 0).sum()) == 32 * 48 // 4
    call, (to_x, to_values) = module.forward(5, weight), module.gradients(5, weight)
    torch.testing.assert_close(call(), call.args[0] @ dense.T)
    torch.testing.assert_close(to_x(), to_x.args[0] @ dense)
    assert to_values().shape == weight.values.shape


def test_costs_are_checked_against_the_records_of_every_dtype(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, lines = tool("check_cost"), []
    sizes = {"op": "linear", "m": 128, "n": 768, "k": 768, "sparsity": 0.9}
    for dtype, block, ran, kernel in (
        ("float32", (1, 1), "panels", "cpu_linear"),
        ("float16", (16, 1), "rows", "cpu_linear"),
        ("bfloat16", (16, 2), "amx_bf16", "cpu_linear_pairs"),
        ("bfloat16", (16, 2), "dense", "reference_linear"),
        ("int8", (16, 4), "amx_int8", ""),
    ):
        posed = {**sizes, "dtype": dtype, "block": block}
        record = {"provider": "sparsekern", "kernel": ran, "problem": posed}
        measured = relative_cost(kernel, module.problem_of(record)) if kernel else 1.0
        for factor in (1.1, 1.5):
            lines.append(json.dumps({**record, "speedup": {"value": factor / measured}}))
        lines.append(json.dumps({**record, "provider": "torch"}))
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    module.main(tmp_path / "records.jsonl")
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == [
        "4 of 8 cases are more than 15% off",
        "2 more are of int8, or have no dense rival: nothing to compare",
    ]
    assert [line.split(": ")[0].split(", ")[-1] for line in said[:-2]] == [
        "cpu_linear",
        "cpu_linear",
        "cpu_linear_pairs",
        "reference_linear",
    ]


def report() -> dict[str, Any]:
    """As `sparsekern run` writes it, with one pruned round."""
    ratio = {"value": 2.0, "low": 1.9, "high": 2.1}
    rounds = [
        {
            "round": index,
            "sparsity": 0.2 * index,
            "accuracy": 0.85,
            "seeds": [0.84, 0.86],
            "early_stop_step": 100.0,
            "speedup_vs_best_dense": ratio,
            "speedup_vs_torch": ratio,
            **({"accuracy_reinit": 0.83, "controls": {"random": 0.81}} if index else {}),
        }
        for index in (0, 1)
    ]
    entry = {
        "structure": "unstructured",
        "rounds": rounds,
        "winner": rounds[1],
        "regrouped": {"regroup:16x1": rounds[1:]},
        "instability_points": [0.1, 0.25],
        "ranges": ["20.0 % zeros: trivial"],
        "narrow": {"width": 0.5, "accuracy": 0.82},
        "seconds": {"search": 12.0},
    }
    return {"command": "sparsekern run", "seconds": 30.0, "seeds": [0, 1], "batch": 8, "structures": [entry]}


def test_a_report_becomes_a_table_of_rounds_and_controls() -> None:
    text = "\n".join(tool("ticket_table").lines(report()))
    row = (
        "| 1 (winner) | 20.00 % | 85.00 | 84.00, 86.00 | 83.00 | 81.00 | 100 | 2.00x (1.90 to 2.10) | 0.25 |"
    )
    assert row in text and "has width 0.5: 82.00 %" in text and "20.0 % zeros: trivial" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_a_report_becomes_a_plot_and_its_points(tmp_path: Path) -> None:
    module = tool("tradeoff_plot")
    assert "| regroup 16x1 | 20.0 % | 85.00 % | 2.00x (1.90 to 2.10) | 2.00x |" in module.table(report())
    both, (unstructured, *_) = report(), report()["structures"]
    both["structures"] += [{**unstructured, "structure": "16x1", "regrouped": {"regroup:16x1": []}}]
    assert module.lines_of(both)["regroup 16x1"] == unstructured["regrouped"]["regroup:16x1"]
    pytest.importorskip("matplotlib")
    module.draw(report(), tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
