"""Machines described without guesses, records without NaN."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsekern.bench import machine
from sparsekern.bench.record import Record, append, read, strict_json


def test_describe_takes_the_isa_and_the_threads() -> None:
    found = machine.describe("avx2")
    assert found["isa"] == "avx2" and found["threads"] == torch.get_num_threads()
    assert found["cpu"] and int(str(found["cpus_usable"])) >= 1
    assert "isa" not in machine.describe()
    strict_json(found)


def test_what_cannot_be_read_is_a_missing_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CPU0", tmp_path)
    assert not {"caches_kib", "governor"} & set(machine.describe())
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "512K")]
    ):
        folder = tmp_path / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "cpufreq").mkdir()
    (tmp_path / "cpufreq" / "scaling_governor").write_text("performance\n")
    found = machine.describe()
    assert found["caches_kib"] == {"L1d": 32, "L1i": 64, "L2": 512}
    assert found["governor"] == "performance"


def test_versions_leave_out_what_is_not_installed() -> None:
    found = machine.versions()
    assert found["torch"] == torch.__version__ and found["numpy"] == np.__version__
    assert all(found.values())


def test_speeds_are_of_this_machine() -> None:
    found = machine.speeds(lambda: 123.5, seconds=0.01)
    assert found["fma_peak_gflops"] == 123.5
    assert 0.1 < found["dense_gemm_gflops"] < 1e5
    assert 0.1 < found["copy_memory_gbps"] < 1e4 and 0.1 < found["copy_256kib_gbps"] < 1e4
    assert "fma_peak_gflops" not in machine.speeds(seconds=0.01)


def test_commit_of_a_checkout_and_of_an_untracked_folder(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        named = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *named, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert machine.commit(tmp_path) == {}
    git("init")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "file").write_text("1")
    (tmp_path / ".gitignore").write_text("site-packages\n")
    git("add", ".")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert machine.commit(tmp_path / "package") == {"commit": head, "dirty": False}
    (tmp_path / "package" / "file").write_text("2")
    assert machine.commit(tmp_path / "package") == {"commit": head, "dirty": True}
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "file").write_text("3")
    assert machine.commit(tmp_path / "site-packages") == {}


def record(**known: object) -> Record:
    return Record({"op": "linear", "m": 256}, "onednn", {"cpu": "x"}, {"torch": "2"}, 0, **known)  # type: ignore[arg-type]


def test_records_are_lines_and_unknown_numbers_are_missing_keys(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, record(median_us=12.5, interval_us=(12.0, 13.25)))
    append(path, record(refusal="takes float32,\ngot float64"))
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["median_us"] == 12.5 and first["interval_us"] == [12.0, 13.25]
    assert set(first) == {"problem", "provider", "machine", "versions", "seed", "median_us", "interval_us"}
    assert second["refusal"] == "takes float32,\ngot float64" and "median_us" not in second


@pytest.mark.parametrize(
    ("known", "place"),
    [
        ({"median_us": float("nan")}, "median_us = nan"),
        ({"interval_us": (1.0, float("inf"))}, "interval_us[1] = inf"),
        ({"speedup": {"value": np.float64("-inf")}}, "speedup.value = -inf"),
    ],
)
def test_records_refuse_what_is_not_a_number(tmp_path: Path, known: dict[str, object], place: str) -> None:
    path = tmp_path / "records.jsonl"
    with pytest.raises(ValueError, match=re.escape(place)):
        append(path, record(**known))
    assert not path.exists()


def test_a_disk_that_takes_no_more_is_an_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs a limit on the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            append(tmp_path / "r", record(refusal="x" * 500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(tmp_path / "r", cut_off=True) == []


def test_a_git_that_hangs_is_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert machine.commit() == {}


def test_a_name_that_is_no_utf_8_is_recorded(tmp_path: Path) -> None:
    append(tmp_path / "r", record(refusal="o\udcff"))
    assert json.loads((tmp_path / "r").read_text("utf-8"))["refusal"] == "o\udcff"
