"""`sparsekern compare` from end to end: two files, two revisions of a make-believe sparsekern, refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sparsekern.cli import main
from sparsekern.cli.compare import command, counts, revisions, sides
from sparsekern.cli.compare.cases import CASES
from sparsekern.cli.compare.revisions import Revision, built, complaint
from sparsekern.cli.compare.sides import Sitting

ROOT = Path(__file__).parents[2]
HERE = {"cpu": "one", "cpus_usable": 2, "fma_peak_gflops": 280.0}

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
needs_forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def record(provider: str, median_us: float, half: float = 0.002, **more: Any) -> dict[str, Any]:
    interval_us = [median_us * (1 - half), median_us * (1 + half)]
    about = {"op": "linear", "m": 64, "n": 768}
    found = {"problem": about, "provider": provider, "machine": HERE, "median_us": median_us}
    return {**found, "interval_us": interval_us, **more}


def written(path: Path, *records: Mapping[str, Any]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return str(path)


@pytest.mark.parametrize(
    ("ours", "rival", "code", "verdict"),
    [
        (105.0, 50.1, 1, "slower"),
        (105.0, 54.0, 2, "undecided"),  # so did torch, which is the same code in both
        (105.0, None, 2, "undecided"),  # nobody can tell
        (95.0, 50.1, 0, "faster"),
        (100.4, 50.1, 0, "same"),
        (100.4, None, 0, "same"),
    ],
)
def test_two_files(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ours: float,
    rival: float | None,
    code: int,
    verdict: str,
) -> None:
    base = written(tmp_path / "base", record("sparsekern", 100.0), record("torch", 50.0))
    others = [] if rival is None else [record("torch", rival)]
    head = written(tmp_path / "head", record("sparsekern", ours), *others)
    out = tmp_path / "out.json"
    assert main(["compare", base, head, "--json", str(out)]) == code
    said = capsys.readouterr().out
    assert f"| linear, m 64, n 768 | 100.0 | {ours:,.1f} | {ours / 100:.3f} (" in said
    assert f"| {verdict} |" in said and f"**{verdict}**" in said
    result = json.loads(out.read_text())
    assert result["verdict"] == result["cases"]["linear, m 64, n 768"]["verdict"] == verdict
    assert ("floor" in result["cases"]["linear, m 64, n 768"]) == (rival is not None)


GOOD = record("sparsekern", 100.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("no JSON", "expected JSON lines of sparsekern bench"),
        ("\xff", "expected JSON lines"),
        ("[1]", "line 1: is a list"),
        ('{"benchmarks": []}', "line 1: has no problem"),
        (json.dumps({**GOOD, "median_us": -1.0}), "has no median_us and interval_us above 0"),
        (json.dumps({**GOOD, "interval_us": [1.0]}), "has no median_us and interval_us above 0"),
        (json.dumps({**GOOD, "problem": {"op": "conv2d"}}), "no case in common"),
        (json.dumps({**GOOD, "machine": {**HERE, "cpu": "two"}}), "the machines differ: cpu is one in BASE"),
    ],
)
def test_what_is_no_pair_of_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    base, head, out = written(tmp_path / "base", GOOD), tmp_path / "head", tmp_path / "out.json"
    head.write_bytes(content.encode("latin-1"))
    assert main(["compare", base, str(head), "--json", str(out)]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not out.exists()


def test_force_compares_machines_that_differ(tmp_path: Path) -> None:
    base = written(tmp_path / "base", GOOD)
    head = written(tmp_path / "head", {**GOOD, "machine": {**HERE, "cpu": "two"}})
    assert main(["compare", base, head, "--force"]) == 0


def test_another_peak_is_not_another_machine(tmp_path: Path) -> None:
    head = written(tmp_path / "head", {**GOOD, "machine": {**HERE, "fma_peak_gflops": 1.0}})
    assert main(["compare", written(tmp_path / "base", GOOD), head]) == 0


@needs_git
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-revision", "HEAD"], "no-such-revision: neither a JSON file nor a git revision"),
        (["--", "HEAD", "-x"], "-x: neither a JSON file nor a git revision"),
        (["HEAD", "HEAD", "--rounds", "0"], "expected a whole number of at least 1, got '0'"),
        (["HEAD", "HEAD", "--budget", "0"], "expected a number of seconds above 0"),
        (["HEAD", "HEAD", "--cases", "gemm"], "invalid choice: 'gemm'"),
        (["HEAD", "HEAD", "--json", "kept"], "--json kept: expected a new file in a folder that exists"),
        (["HEAD", "HEAD", "--json", "no/x"], "--json no/x: expected a new file in a folder that exists"),
        (["kept", "HEAD"], "expected two files or two revisions, got one of each"),
        (["HEAD", "HEAD"], "HEAD: holds no sparsekern"),
        (["HEAD", "HEAD", "--counts"], ""),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    repository(tmp_path / "repository", {"README": "no package"})
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if "--counts" in arguments:
        monkeypatch.setattr(counts.shutil, "which", lambda name: None)
        words = "--counts needs valgrind and g++"
    Path("kept").write_text("kept")
    try:
        code = main(["compare", *arguments])
    except SystemExit as left:
        code = int(str(left.code))
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("building")]
    assert code == 2 and len(lines) == 1 and words in lines[0]
    assert Path("kept").read_text() == "kept"


def test_a_compiler_that_is_missing_is_named() -> None:
    log = "  error: subprocess-exited-with-error\n  gcc -c x.cpp\n  error: command 'gcc' failed: None\nend"
    assert complaint(log) == "error: command 'gcc' failed: None"
    assert complaint("a\nlast\n\n") == "last"


# ---- revisions

PACKAGE = """\
from time import perf_counter

from torch import nn


class SparseLinear(nn.Linear):
    @classmethod
    def from_dense(cls, linear, block):
        if linear.in_features > 1000:
            raise ValueError("too wide")
        return cls(linear.in_features, linear.out_features)

    def forward(self, x):
        end = perf_counter() + {us}e-6
        while perf_counter() < end:
            pass
"""
PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "sparsekern"
version = "0"
[tool.setuptools]
packages = ["sparsekern"]
"""


def repository(folder: Path, *commits: Mapping[str, str]) -> Path:
    """With a commit for each mapping of paths to contents."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    for files in commits:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", "one more"], check=True)
    return folder


@needs_git
@needs_forks
def test_a_slow_revision_is_found_and_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"pyproject.toml": PROJECT, "sparsekern/__init__.py": PACKAGE.replace("{us}", "100")}
    head = {"sparsekern/__init__.py": PACKAGE.replace("{us}", "130")}
    monkeypatch.chdir(repository(tmp_path / "repository", base, head))
    cases = ["--cases", "linear", "linear-batch1", "conv2d"]
    out, cache = tmp_path / "out.json", tmp_path / "cache"
    options = ["--cache", str(cache), "--json", str(out), "--rounds", "12"]
    assert main(["compare", "HEAD~1", "HEAD", *cases, *options]) == 1
    said = capsys.readouterr()
    result = json.loads(out.read_text())
    assert result["verdict"] == result["cases"]["linear"]["verdict"] == "slower"
    assert 1.2 < result["cases"]["linear"]["ratio"] < 1.4
    assert min(result["rounds"]) >= 6
    assert result["cases"]["linear-batch1"] == {"refusal": "not timed: too wide"}
    assert result["cases"]["conv2d"] == {"refusal": "not timed: has no SparseConv2d"}
    assert "**slower**: at least one case is slower by more than 1.5 %." in said.out
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []


@needs_git
def test_what_does_not_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"sparsekern/__init__.py": "", "setup.py": "raise SystemExit('error: no compiler')"}
    monkeypatch.chdir(repository(tmp_path / "repository", broken))
    revision = Revision.find("HEAD")
    with pytest.raises(ValueError, match=r"HEAD does not build: .*no compiler .all of it: .*log.$"):
        built(revision, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".log"]


@needs_forks
def test_this_revision_against_itself() -> None:
    with Sitting((ROOT, ROOT), {"tiny": CASES["tiny"]}, seed=1) as sitting:
        assert sitting.names == ["tiny"] and sitting.refusals == [{}, {}]
        times = sitting.round(["tiny"])["tiny"]
        servers = [server.process for server in sitting.servers]
    assert times.shape == (sides.TURNS, 4)
    assert times.min() > 0 and times.max() < 1e5
    assert [server.returncode for server in servers] == [0, 0]


@needs_forks
def test_a_side_that_does_not_import_says_why(tmp_path: Path) -> None:
    package = tmp_path / "sparsekern"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('torch is too old')")
    with (
        pytest.raises(ValueError, match="does not run: ImportError: torch is too old"),
        Sitting((tmp_path, tmp_path), {"tiny": CASES["tiny"]}, seed=1),
    ):
        pass


def test_every_verdict_has_its_exit_code() -> None:
    assert command.EXIT_CODES == {"same": 0, "faster": 0, "slower": 1, "undecided": 2}
    assert revisions.default_cache().name == "compare"
