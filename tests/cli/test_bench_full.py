"""`sparsekern bench full` and `--resume`: all parts in their time, and what is killed goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from bench_results import records, write

from sparsekern import zoo
from sparsekern.cli import main
from sparsekern.cli.bench import command, full, limit
from sparsekern.cli.bench.full import SHARES, Clock
from sparsekern.cli.bench.presets import NETWORKS, PRESETS, Grid, Preset
from sparsekern.cli.bench.presets_conv import PRESETS_CONV2D, ConvGrid, ConvPreset, ConvShape
from sparsekern.cli.bench.rivals import RIVALS
from sparsekern.cli.bench.rivals_conv import RIVALS_CONV2D

FULL = ["bench", "full", "--minutes", "1", "--json", "r.jsonl"]
PROBLEMS = 4 + 2 + 1  # linear, conv2d, network


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grid = Grid(((24, 32),), ((1, 1), (8, 1)), (3,), (0.5, 0.9))
    convolutions = ConvGrid((ConvShape((8, 8), 3, 5),), sparsities=(0.5, 0.9))
    monkeypatch.setitem(PRESETS, "survey", Preset((grid,), 0.01))
    monkeypatch.setitem(PRESETS_CONV2D, "survey", ConvPreset((convolutions,), 0.01))
    monkeypatch.setattr(full, "NETWORKS", ("lenet300",))
    monkeypatch.setattr(full, "MOST_S", 0.01)
    monkeypatch.setattr(limit, "_read_gbs", lambda nbytes: 20.0)
    monkeypatch.chdir(tmp_path)


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("r.jsonl").read_text("utf-8").splitlines()]


def keys() -> list[str]:
    return [json.dumps([record["problem"], record["provider"]]) for record in lines()]


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for one more case is interrupted."""
    measure, done = command.measure, []

    def stops(*arguments: Any) -> Any:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(command, "measure", stops)


def test_the_survey_covers_what_it_says() -> None:
    assert set(NETWORKS) <= set(zoo.MODELS) and sum(SHARES.values()) == pytest.approx(1)


def test_all_parts_are_timed_and_resumed_nothing_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FULL, "--html", "page.html"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line[:2] == "##"] == [
        "## linear",
        "## conv2d",
        "## network",
    ]
    assert {record["problem"]["op"] for record in lines()} == {"linear", "conv2d", "network"}
    assert len({json.dumps(record["problem"]) for record in lines()}) == PROBLEMS
    assert " cases are left" not in said and Path("page.html").stat().st_size > 10_000
    before = Path("r.jsonl").read_text()
    assert main([*FULL, "--resume", "--csv", "all.csv"]) == 0
    said = capsys.readouterr().out
    assert "4 of 4 cases are in r.jsonl" in said and "|" not in said and "Times are medians" not in said
    assert Path("r.jsonl").read_text() == before
    assert len(Path("all.csv").read_text().splitlines()) == 1 + len(lines())


@pytest.mark.parametrize(
    ("count", "cut"), [(0, None), (1, 40), (2, None), (3, "case"), (5, -30), (1, "case")]
)
def test_what_is_stopped_goes_on(
    count: int, cut: int | str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full, "NETWORKS", ())
    with monkeypatch.context() as inside:
        killed_after(count, inside)
        assert main(FULL) == 130
    assert capsys.readouterr().err == "sparsekern: stopped; --resume goes on\n"
    path = Path("r.jsonl")
    whole, kept = path.read_text(), count
    if cut == "case" and count:  # killed just at the end of a line within a case
        path.write_text("".join(line + "\n" for line in whole.splitlines()[:-2]))
        kept = count - 1
    elif isinstance(cut, int) and count:
        last = whole.splitlines()[-1]
        path.write_text(whole[: -len(last) - 1] + last[:cut])
        kept = count - 1
    elif count:
        assert len({json.dumps(record["problem"]) for record in lines()}) == count
    measured: list[Any] = []
    measure: Callable[..., Any] = command.measure
    monkeypatch.setattr(command, "measure", lambda *given: (measured.append(given), measure(*given))[1])
    assert main([*FULL, "--resume"]) == 0
    assert len(measured) == 6 - kept and len(keys()) == len(set(keys()))
    assert len({json.dumps(record["problem"]) for record in lines()}) == PROBLEMS - 1
    assert {record["provider"] for record in lines()} >= {*RIVALS, *RIVALS_CONV2D} - {"sparseprop"}


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--shape", "24x32", "--batch", "1", "2", "3", "4", "--block", "1x1", "--sparsity", "0.5", "0.9"]
    arguments = ["bench", "linear", *sizes, "--json", "r.jsonl", "--budget"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsekern", *arguments, "0.3"],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ends = monotonic() + 60
    while monotonic() < ends and not (Path("r.jsonl").is_file() and Path("r.jsonl").stat().st_size):
        sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {json.dumps(record["problem"]) for record in lines()}
    assert 1 <= len(kept) < 8
    assert main([*arguments, "0.001", "--resume"]) == 0
    assert f"{len(kept)} of 8 cases are in r.jsonl" in capsys.readouterr().out
    assert len(keys()) == len(set(keys())) and len({json.dumps(r["problem"]) for r in lines()}) == 8


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "expected a file of one origin, got cpu Some CPU 9000 and "),
        ({"machine": None}, "expected a file of one origin, got commit 0123456789abcdef and"),
    ],
)
def test_a_file_of_another_origin_is_refused_and_left_alone(
    resume: list[str], change: dict[str, None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here: dict[str, Any] = {}
    if change:
        assert (
            main(["bench", "linear", "--preset", "survey", "--budget", "0.001", "--json", "own.jsonl"]) == 0
        )
        here = {"machine": json.loads(Path("own.jsonl").read_text().splitlines()[0])["machine"]}
    path = write(Path("r.jsonl"), [replace(record, **here) for record in records()])
    before = path.read_bytes()
    capsys.readouterr()
    assert main([*FULL, *resume]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and path.read_bytes() == before


def test_a_foreign_file_is_refused_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.jsonl").write_text('{"my": "notes"}\n')
    for more in ([], ["--resume"]):
        assert main([*FULL, *more]) == 2
        assert "r.jsonl, line 1: expected a record of sparsekern, got" in capsys.readouterr().err
    assert Path("r.jsonl").read_text() == '{"my": "notes"}\n'


def test_when_the_time_is_up_it_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full, "NETWORKS", ())
    monkeypatch.setattr(full, "monotonic", iter(range(0, 100_000, 10)).__next__)
    assert main(FULL) == 0
    said = capsys.readouterr().out
    assert "linear: " in said and " cases are left, the time was up; --json and --resume go on" in said
    assert main([*FULL, "--minutes", "1000000", "--resume"]) == 0
    assert len({json.dumps(record["problem"]) for record in lines()}) == PROBLEMS - 1 and len(keys()) == len(
        set(keys())
    )


def test_a_clock_shares_out_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(full, "monotonic", lambda: now[0])
    monkeypatch.setattr(full, "MOST_S", 2.0)
    clock = Clock(ends=40.0)
    assert clock(20) == 1.0  # two seconds a case, half of them to time in
    now[0] = 10.0
    assert clock(1) == 2.0  # the first took ten, thirty are left
    now[0] = 20.0
    assert clock(1) is None  # the next may take twenty
    assert Clock(ends=40.0)(1) == 2.0 and Clock(ends=40.0)(10_000) == full.LEAST_S
    assert Clock(ends=19.0)(5) is None


def test_parts_pass_on_what_they_leave_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "monotonic", lambda: 0.0)
    parts = ["linear", "conv2d", "network"]
    assert full._end_of("linear", parts, 95.0) == pytest.approx(40.0)
    assert full._end_of("network", parts, 10.0) == 10.0
    assert full._end_of("network", parts, -1.0) == 0.0


def test_minutes_are_more_than_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "full", "--minutes", "0"])
    assert "expected a number of minutes above 0, got '0'" in capsys.readouterr().err
