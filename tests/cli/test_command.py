"""The command line: bad input ends in exit code 2 and one line; doctor and progress say what is."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparsekern import cli
from sparsekern.cli import doctor, main, progress
from sparsekern.cli.progress import Bar, Progress
from sparsekern.tickets.config import METHODS, RESETS


def test_what_help_lists_is_what_a_search_knows() -> None:
    assert (cli.METHODS, cli.RESETS) == (METHODS, RESETS)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "lenet5000"], "unknown model 'lenet5000'"),
        (["run", "--data", "imagenet"], "unknown data set 'imagenet'"),
        (["run", "--data", "mnist", "--data-dir", "/no/such/folder"], "/no/such/folder"),
        (["run", "--block", "16"], "expected a block such as 16x1 (outputs x inputs), got '16'"),
        (["run", "--block", "0x1"], "expected a block such as 16x1"),
        (["run", "--block", "16x1", "--structure", "16x1"], "not allowed with argument"),
        (["run", "--structure", "diagonal"], "invalid choice: 'diagonal'"),
        (["run", "--rounds", "0"], "expected a whole number of at least 1, got '0'"),
        (["run", "--seed", "-1"], "--seed"),
        (["run", "--rate", "1.5"], "1.5"),
        (["run", "--seeds", "1001"], "expected at most 1000 seeds, got '1001'"),
        (["run", "--device", "nowhere"], "--device nowhere: a device of this machine is expected"),
        (["run", "--rate", "0"], "round 12 of 12 would drop nothing with rate 0.0 and block (1, 1)"),
        (["run", "--rounds", "1", "--block", "1000x1000"], "a block smaller than its shape"),
        (["run", "--structure", "16x1", "--rate", "0.95"], "round 4 of 12: layer fc1.weight: dropping 0.95"),
        (["run", "--batch", "1001"], "--batch 1001: fashion-mnist-6k has 1000 test images"),
        (["bench"], "the following arguments are required: kernel"),
        (["bench", "conv"], "invalid choice: 'conv'"),
        (["bench", "linear", "--preset", "slow"], "invalid choice: 'slow'"),
        (["bench", "linear", "--shape", "768"], "expected a shape such as 3072x768 (outputs x inputs), got"),
        (
            ["bench", "linear", "--sparsity", "0.5", "1"],
            "expected a share of zeros from 0 to below 1, got '1'",
        ),
        (
            ["bench", "linear", "--sparsity", "most"],
            "expected a share of zeros from 0 to below 1, got 'most'",
        ),
        (["bench", "linear", "--budget", "0"], "expected a number of seconds above 0, got '0'"),
        (["bench", "linear", "--budget", "inf"], "expected a number of seconds above 0, got 'inf'"),
        (["bench", "linear", "--shape", "12x12"], "block 16x1 does not fit into a weight of 12x12"),
        (["bench", "linear", "--limit", "3"], "--limit: not expected, as --preset quick reads no files"),
        (
            ["bench", "linear", "--data-dir", "x"],
            "--data-dir: not expected, as --preset quick reads no files",
        ),
        (["bench", "linear", "--preset", "dlmc", "--batch", "1"], "--batch: not expected, as --preset dlmc"),
        (["bench", "linear", "--preset", "dlmc", "--data-dir", "/no/such/folder"], "in /no/such/folder"),
        (["bench", "linear", "--json", "/no/such/folder/x"], "/no/such/folder/x"),
        ([], "command"),
        (["prune"], "invalid choice: 'prune'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse's own way out
        code = stop.code
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    assert said.err.startswith("sparsekern") and said.err.count("\n") == 1 and line in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["run", "--out", str(tmp_path / "taken")]) == 2
    assert "taken" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
def test_an_out_that_cannot_be_written_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsekern.cli.run.search_all", unexpected)
    assert main(["run", "--quiet", "--out", "/proc"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "/proc" in said


def unexpected(*given: object) -> None:
    raise AssertionError("nothing may be searched")


def test_an_isa_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_isa() -> str:
        raise ValueError("unknown isa 'sse9'")

    monkeypatch.setattr("sparsekern.cli.run.search_all", unexpected)
    monkeypatch.setattr("sparsekern.kernels.cpu.isa", no_isa)
    assert main(["run", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "sparsekern: unknown isa 'sse9'\n" and not (tmp_path / "out").exists()


def test_ctrl_c_is_one_line_and_exit_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(options: object) -> int:
        raise KeyboardInterrupt

    for command, line in (
        ("run", "sparsekern: stopped; --resume goes on\n"),
        ("doctor", "sparsekern: stopped\n"),
    ):
        monkeypatch.setattr(cli, "_function", lambda options: stopped)
        assert main([command]) == 130
        assert capsys.readouterr().err == line


def test_what_the_encoding_lacks_is_said_in_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    progress.say("µs in o\udcff", stream)
    assert raw.getvalue() == b"\\xb5s in o\\udcff\n"


def test_a_missing_extra_is_named_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sparsekern.bench.report.find_spec", lambda name: None)
    assert main(["run"]) == 2
    assert 'pip install "sparsekern[report]"' in capsys.readouterr().err


def test_python_m_sparsekern_runs_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparsekern", "run", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unknown model 'nothing'" in done.stderr and "Traceback" not in done.stderr


def test_doctor_knows_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    from sparsekern.kernels import KERNELS, cpu

    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["isa"] == cpu.isa() and found["isas"] == list(cpu.isas())
    assert [entry["kernel"] for entry in found["kernels"][::2]] == [kernel.name for kernel in KERNELS]
    assert {"kernel": "cpu_linear", "block": [1, 1], "available": True} in found["kernels"]
    assert found["data"]["fashion-mnist-6k"] == {"available": True}


def test_doctor_says_why_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SPARSEKERN_DATA", "/no/such/folder")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "BLOCKS", ((4, 4),))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (cpu,) = [line for line in lines if line.startswith("  cpu_linear ")]
    assert "block (4, 4)   no: takes blocks (V, 1), got (4, 4)" in cpu
    (mnist,) = [line for line in lines if line.split()[0] == "mnist"]
    assert "no: " in mnist and "/no/such/folder" in mnist
    (triton,) = [line for line in lines if line.startswith("triton")]
    assert "no: not installed" in triton


def test_progress_prints_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    stream = io.StringIO()
    follow = Progress("16x1", runs=4, iterations=100, stream=stream)
    base = {"kind": "ticket", "round": 1, "sparsity": 0.2, "val_accuracy": 0.861, "val_loss": 0.4}
    follow("a", {"event": "start", "iterations": 100, **base})
    for step in (25, 50, 75, 100):
        now += 2.0
        follow("a", {"event": "eval", "step": step, **base})
    follow("a", {"event": "done", **base})
    now += 5.0
    follow("a", {"event": "eval", "step": 50, **base})
    follow.close()
    assert stream.getvalue().splitlines() == [
        "16x1:  19 %, round 1 (ticket), 20.0 % sparse, validation 86.10 %",
        "16x1:  38 %, round 1 (ticket), 20.0 % sparse, validation 86.10 %",
    ]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    follow = Progress("16x1", runs=2, iterations=100, stream=stream)
    base = {"kind": "reinit", "round": 1, "sparsity": 0.2, "val_accuracy": 0.861}
    follow("a", {"event": "done", **base})
    follow("b", {"event": "eval", "step": 50, **base})
    assert follow.bar.n == 150  # two searches at once
    follow.close()
    assert "16x1" in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_for_terminals(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, out = io.StringIO(), io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    with Bar("timing", 2, stream) as bar:
        bar.say("a row", out)
        bar.step()
        assert not terminal or bar.bar.n == 1
    assert out.getvalue() == "a row\n"
    assert ("timing  50 %" in stream.getvalue()) is terminal
