"""`sparsekern run` from end to end, on one tiny search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sparsekern.cli import main
from sparsekern.cli.prove import prove
from sparsekern.cli.threads import torch_threads
from sparsekern.masks import sparsity
from sparsekern.tickets import Ticket
from sparsekern.tickets.files import read
from sparsekern.zoo import model

ARGUMENTS = ["run", "--rounds", "1", "--iterations", "30", "--block", "8x1", "--batch", "64", "--seeds", "2"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    curves = ["--tensorboard", str(folder / "curves")] if find_spec("tensorboard") else []
    assert main([*ARGUMENTS, *curves, "--quiet", "--out", str(folder)]) == 0
    return folder


def test_the_report_is_there_and_adds_up(out: Path) -> None:
    result = json.loads((out / "report.json").read_text())
    assert result["batch"] == 64 and result["seeds"] == [0, 1] and result["machine"]["threads"] == 1
    assert result["command"].startswith("sparsekern run --rounds 1 --iterations 30 --block 8x1")
    (structure,) = result["structures"]
    assert structure["structure"] == "8x1" and structure["block"] == [8, 1]
    assert [entry["round"] for entry in structure["rounds"]] == [0, 1]
    dense, pruned = structure["rounds"]
    assert dense["sparsity"] == 0 and pruned["sparsity"] == pytest.approx(0.2, abs=0.002)
    assert result["accuracy_dense"] == dense["accuracy"] == sum(dense["seeds"]) / 2
    assert result["accuracy_ticket"] == pruned["accuracy"] and 0 < pruned["accuracy_reinit"] < 1
    gap = 100 * (pruned["accuracy"] - dense["accuracy"])
    assert result["difference_points"]["value"] == pytest.approx(gap)
    for entry in structure["rounds"]:
        assert entry["speedup_vs_best_dense"]["value"] <= entry["speedup_vs_torch"]["value"]
        assert 0 < entry["error"] < 1e-5 and entry["changed_predictions"] <= 2
        for name in ("speedup_vs_torch", "speedup_vs_best_dense"):
            assert entry[name]["low"] <= entry[name]["value"] <= entry[name]["high"]
    assert [layer["layer"] for layer in structure["layers"]] == ["fc1", "fc2", "fc3"]
    assert all(layer["decision"] in ("swapped", "kept") and layer["reason"] for layer in structure["layers"])
    assert result["verdict"] in (out / "report.html").read_text()


def test_tensorboard_reads_the_curves_of_every_training(out: Path) -> None:
    pytest.importorskip("tensorboard", reason="curves are the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names, runs = ("val_loss", "val_accuracy"), set()
    for path in (out / "rounds").glob("*/*.safetensors"):
        run = f"{path.parent.name}/{path.stem}"
        seen = EventAccumulator(str(out / "curves" / run)).Reload()
        assert sorted(seen.Tags()["scalars"]) == sorted(names)
        told = [[(event.step, event.value) for event in seen.Scalars(name)] for name in names]
        curve = read(path, "round")[1]["curve"]
        for at, values in enumerate(told, 1):
            assert values == [(point[0], pytest.approx(point[at], rel=1e-6)) for point in curve]  # float32
        runs.add(run)
    assert runs == {
        str(file.parent.relative_to(out / "curves")) for file in (out / "curves").rglob("*tfevents*")
    }
    assert len(runs) == 2 * 3


@pytest.mark.slow
def test_ranks_of_torchrun_make_one_report(out: Path, tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, "--seeds", "1", "--out", str(tmp_path)]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sparsekern"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "report.json").read_text())
    assert done.stdout.count(result["verdict"]) == done.stdout.count(str(tmp_path / "report.html")) == 1
    alone = json.loads((out / "report.json").read_text())["structures"][0]["rounds"]
    for one, both in zip(alone, result["structures"][0]["rounds"], strict=True):
        assert both["sparsity"] == pytest.approx(one["sparsity"], abs=0.001)  # blocks at the edge are smaller
        assert both["accuracy"] == pytest.approx(one["seeds"][0], abs=0.01)  # gradients are rounded otherwise


def test_the_winning_tickets_are_saved(out: Path) -> None:
    network = model("lenet300")
    Ticket.load(out / "ticket-8x1-seed1.safetensors").apply_(network)
    assert sparsity(network) == pytest.approx(0.2, abs=0.002)
    assert (out / "ticket-8x1-seed0.safetensors").is_file()


def test_resume_trains_nothing_again_and_a_fresh_run_does(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stamps() -> set[int]:
        return {file.stat().st_mtime_ns for file in (out / "rounds").rglob("*.safetensors")}

    before, report = stamps(), json.loads((out / "report.json").read_text())
    assert len(before) == 2 * 3  # dense, ticket and control, with two seeds
    assert main([*ARGUMENTS, "--resume", "--out", str(out)]) == 0
    assert stamps() == before
    again = json.loads((out / "report.json").read_text())
    assert [entry["seeds"] for entry in again["structures"][0]["rounds"]] == [
        entry["seeds"] for entry in report["structures"][0]["rounds"]
    ]
    said = capsys.readouterr().out
    assert "round  sparsity  accuracy" in said and "<- winner" in said and "fc1" in said
    assert said.splitlines()[-2:] == [again["verdict"], str(out / "report.html")]
    assert main([*ARGUMENTS, "--seeds", "1", "--quiet", "--out", str(out)]) == 0
    assert len(stamps() & before) == 3  # those of the second seed
    assert [path.name for path in out.glob("ticket-*")] == ["ticket-8x1-seed0.safetensors"]


def test_resume_says_so_where_there_is_nothing_to_resume(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsekern.cli.run.search_all", stop)
    for seed, said in (("7", True), ("0", False)):
        assert main([*ARGUMENTS, "--resume", "--seed", seed, "--out", str(out)]) == 130
        assert ("nothing to resume" in capsys.readouterr().out) is said


def test_a_round_that_cannot_be_proven_is_one_line(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*given: object) -> None:
        raise RuntimeError("the swapped network is off by 1")

    monkeypatch.setattr("sparsekern.cli.run.prove", breaks)
    arguments = [*ARGUMENTS, "--seeds", "1", "--quiet", "--resume", "--out", str(out)]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "sparsekern: 8x1, round 0: the swapped network is off by 1; --resume trains nothing again\n"
    )


def test_a_reader_that_leaves_and_an_odd_name_cost_no_report(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"o\xff")
    arguments = [*ARGUMENTS, "--seeds", "1", "--out", str(out)]
    child = subprocess.Popen(
        [sys.executable, "-m", "sparsekern", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 0, errors
    assert b"Traceback" not in errors
    assert str(out) in json.loads((out / "report.json").read_text("utf-8"))["command"]


def test_a_swapped_network_that_computes_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(network: torch.nn.Module, x: torch.Tensor) -> None:
        with torch.no_grad():
            network.fc3.weight[3, 5] += 0.1

    monkeypatch.setattr("sparsekern.cli.prove.swap_", breaks)
    with pytest.raises(RuntimeError, match="the swapped network is off by"):
        prove(model("lenet300"), torch.randn(8, 784), 8)


def test_the_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ZeroDivisionError), torch_threads(1):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_network_of_text_is_proved() -> None:
    network = model("transformer", torch.Generator().manual_seed(0), width=0.25)
    symbols = torch.randint(65, (4, 128), generator=torch.Generator().manual_seed(1))
    with torch_threads(1):
        found = prove(network, symbols, 2)
    assert 0 < found.figures["error"] < 1e-5 and found.figures["changed_predictions"] <= 2
