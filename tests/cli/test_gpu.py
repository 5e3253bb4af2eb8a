"""`sparsekern gpu`: what it refuses, how parts are kept apart, what is written; the counting of work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsekern.cli import doctor, main
from sparsekern.cli.gpu import command, contest, results, roofline, setting
from sparsekern.cli.gpu.options import PARTS
from sparsekern.cli.gpu.processes import run_limited
from sparsekern.cli.gpu.roofline import Peak, Work
from sparsekern.kernels import KERNELS
from sparsekern.kernels.triton import cache
from sparsekern.kernels.triton.launch import Launch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.fixture(autouse=True)
def not_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(setting.TINY, "0")


# ---- the command


def test_without_a_gpu_it_says_so_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run_limited", lambda *_, **__: pytest.fail("nothing may be started"))
    assert main(["gpu", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "no GPU" in said.err and "--tiny" in said.err and said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["gpu", "--part", "attention"], "invalid choice: 'attention'"),
        (["gpu", "--seconds", "5"], "--seconds is for one --part"),
        (["tune", "--shape", "12"], "expected a shape such as 3072x768"),
        (["tune", "--tiny", "--block", "16x16"], "only with --shape"),
    ],
)
def test_bad_input(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2 and line in capsys.readouterr().err


def test_no_extension_is_needed() -> None:
    """On a machine with a GPU it runs in place, and nothing was built there."""
    parts = ", ".join(f"sparsekern.cli.gpu.{name}" for name in (*PARTS, "sanitize"))
    code = f"import sys; sys.modules['sparsekern._core'] = None; import {parts}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Toy:
    """A part that finds two things, one of them wrong."""

    def run(self, given: setting.Setting) -> Iterator[dict[str, Any]]:
        yield {"of": "first", "time_us": 1.5}
        yield {"of": "second", "error": "wrong by 1.0"}

    def lines(self, entries: list[dict[str, Any]]) -> Iterator[str]:
        yield from (entry["of"] for entry in entries)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load", lambda name: Toy())


def test_one_part_runs_here_and_an_error_of_ours_is_exit_2(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpu", "--tiny", "--part", "conv", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[1].startswith("## conv (0 s)") and lines[3:5] == ["first", "second"]
    assert "1 things went wrong, first conv: wrong by 1.0" in said.err
    content = json.loads((tmp_path / "interpreter.json").read_text())
    assert content["device"]["name"] == "interpreter"
    part = content["parts"]["conv"]
    assert part["ended"] and len(part["entries"]) == 2 and "torch" in part["versions"] and "at" in part


def test_a_part_that_dies_or_hangs_ends_alone_and_keeps_what_it_found(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def child(given: list[str], seconds: float, **_: Any) -> int | None:
        name = given[given.index("--part") + 1]
        ran.append((name, seconds))
        if name == "check":
            results.write(tmp_path, name, [{"of": "one"}], ended=False, versions={"torch": "x"})
            return -11
        if name == "linear":
            return None
        results.write(tmp_path, name, [{"of": name}], ended=True)
        return 0

    monkeypatch.setattr(command, "run_limited", child)
    results.write(tmp_path, "linear", [{"of": "an earlier run"}], ended=True)
    assert main(["gpu", "--tiny", "--out", str(tmp_path)]) == 2
    assert ran == [(name, seconds + command.GRACE_S) for name, seconds in PARTS.items()]
    parts = results.read(tmp_path)["parts"]
    assert parts["check"]["entries"] == [{"of": "one"}, {"error": "ended with exit code -11"}]
    assert parts["check"]["versions"] == {"torch": "x"}
    assert parts["linear"]["entries"] == [{"error": "did not end within 210 s"}]
    assert parts["model"]["entries"] == [{"of": "model"}]
    said = capsys.readouterr()
    assert "- did not end within 210 s" in said.out and "2 things went wrong" in said.err
    assert said.out.index("## check") < said.out.index("## model") < said.out.index("all figures")


def test_what_a_part_raises_is_an_error_in_words_behind_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Toy):
        def run(self, given: setting.Setting) -> Iterator[dict[str, Any]]:
            yield {"of": "first"}
            raise AttributeError("a torch that knows no such thing\nat all")

    monkeypatch.setattr(command, "load", lambda name: Broken())
    assert main(["gpu", "--tiny", "--part", "conv", "--out", str(tmp_path)]) == 2
    part = results.read(tmp_path)["parts"]["conv"]
    words = "AttributeError: a torch that knows no such thing"
    assert part["entries"] == [{"of": "first"}, {"error": words}] and part["ended"]
    said = capsys.readouterr()
    assert f"- {words}" in said.out and "Traceback" in said.err


def test_all_parts_fit_into_one_lease() -> None:
    assert sum(PARTS.values()) + 6 * len(PARTS) <= 9 * 60


# ---- processes


def test_a_process_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    grandchild = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']);"
    grandchild += "open(sys.argv[1], 'w').write(str(p.pid)); time.sleep(60)"
    start = time.perf_counter()
    assert run_limited([sys.executable, "-c", grandchild, str(note)], 1.5) is None
    assert time.perf_counter() - start < 10
    state = Path(f"/proc/{note.read_text()}/stat")
    time.sleep(0.1)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_process_that_ends_gives_its_exit_code_in_its_environment() -> None:
    code = "import os, sys; sys.exit(int(os.environ['CODE']) + ('PATH' in os.environ))"
    assert run_limited([sys.executable, "-c", code], 30, env={"CODE": "6"}) == 7
    assert "CODE" not in os.environ


# ---- the file


def test_parts_merge_into_the_file_and_replace_what_they_left(tmp_path: Path) -> None:
    results.write(tmp_path, "linear", [{"m": 1}], ended=True)
    results.write(tmp_path, "conv", [{"m": 2}], ended=True)
    results.write(tmp_path, "linear", [{"m": 3}, {"m": 4}], ended=True)
    parts = results.read(tmp_path)["parts"]
    assert parts["linear"]["entries"] == [{"m": 3}, {"m": 4}] and parts["conv"]["entries"] == [{"m": 2}]
    assert [path.name for path in tmp_path.iterdir()] == ["interpreter.json"]


def test_the_file_is_strict_json(tmp_path: Path) -> None:
    results.write(tmp_path, "conv", [{"m": 2}], ended=True)
    with pytest.raises(ValueError, match=r"time_us = nan"):
        results.write(tmp_path, "linear", [{"time_us": float("nan")}], ended=True)
    assert set(results.read(tmp_path)["parts"]) == {"conv"}
    (tmp_path / "interpreter.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        results.read(tmp_path)


def test_the_file_is_named_after_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert results.path_in(Path("x")) == Path("x/nvidia-h100-80gb-hbm3.json")
    assert results.describe()["published_tflops"] == 989.4


# ---- what a product needs at least


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", Peak(989.4, 3350)),
        ("NVIDIA H100 PCIe", Peak(756.5, 2000)),
        ("NVIDIA H200", Peak(989.4, 4800)),
        ("NVIDIA GH200 480GB", Peak(989.4, 4000)),
        ("NVIDIA B200", Peak(2250, 8000)),
        ("NVIDIA A100-SXM4-80GB", Peak(312, 2039)),
        ("NVIDIA A100-SXM4-40GB", Peak(312, 1555)),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_published_limits(device: str, peak: Peak | None) -> None:
    assert roofline.peak_of(device) == peak


def test_the_limit_is_the_larger_of_two_times() -> None:
    h100 = Peak(989.4, 3350)
    assert roofline.dense_work(8192, 8192, 8192, 2).limit_us(h100) == pytest.approx(2 * 8192**3 / 989.4e6)
    few = roofline.dense_work(16, 14336, 4096, 2)
    assert few.limit_us(h100) == pytest.approx(35.2, abs=0.1)  # 118 MB at 3.35 TB/s
    assert Work(1000, 0).limit_us(Peak(1, 1)) == 0.001 and Work(0, 1000).limit_us(Peak(1, 1)) == 1.0


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ([(0.5, 0.5), (0.9, 1.5)], "70 %"),
        ([(0.9, 2.0), (0.5, 1.1)], "< 50 %"),
        ([(0.5, 0.5), (0.9, 0.9)], "> 90 %"),
        ([(0.5, 1.1), (0.8, 0.8), (0.9, 1.2)], "85 %"),  # from there on
    ],
)
def test_break_even(points: list[tuple[float, float]], found: str) -> None:
    assert contest.break_even(points) == found


# ---- doctor


def test_doctor_says_where_launches_would_be_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSEKERN_CACHE", "/some/where")
    assert main(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tuned")]
    assert line.startswith("tuned    no: ") and line.endswith("launches would be kept in /some/where")


def test_doctor_counts_the_launches_of_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    key = ("linear", "bfloat16", 64, 64, 4096, 4096, 4096, 409)
    path = cache.save("NVIDIA H100 80GB HBM3", {key: Launch("tma", 128, 64, 4, 4)})
    (tmp_path / "shipped").mkdir()
    cache.write(tmp_path / "shipped" / "sm_90.json", {key: Launch("tma", 64, 64, 4, 4)})
    tuned = doctor._tuned()
    assert (tuned["path"], tuned["entries"], tuned["shipped"]) == (str(path), 1, 1)
    assert doctor._tuned_line(tuned).startswith(f"1 launches in {path}, 1 come with the package")
    refusals = {
        kernel.name: [doctor._refusal(kernel, block, "avx2") for block in ((16, 16), (16, 1))]
        for kernel in KERNELS
        if kernel.name.startswith("triton")
    }
    assert set(refusals) == {"triton_linear", "triton_conv2d"}
    assert all(fits is None and "takes blocks" in str(does_not) for fits, does_not in refusals.values())
