"""The workflows are read as a runner would: every file parses, every job is complete, scripts are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text("utf-8"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_complete(path: Path) -> None:
    found = read(path)
    assert {"name", "jobs", "permissions"} <= set(found) and True in found  # YAML reads `on` as true
    for job in found["jobs"].values():
        assert "runs-on" in job and job["steps"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert re.fullmatch(r"[\w./-]+@v\d+", step.get("uses", "a@v1"))
            if "run" in step:
                assert subprocess.run(["bash", "-n", "-c", plain(step["run"])], check=False).returncode == 0


@pytest.mark.parametrize("name", ["ci", "nightly"])
def test_neon_is_tested_wherever_all_tests_run(name: str) -> None:
    """Its test skips itself where it finds no compiler or no emulator."""
    jobs = read(ROOT / ".github" / "workflows" / f"{name}.yml")["jobs"].values()
    (steps,) = (job["steps"] for job in jobs if job["runs-on"] == "ubuntu-latest")
    installed = " ".join(step.get("run", "") for step in steps).split()
    assert {"g++-aarch64-linux-gnu", "qemu-user"} <= set(installed)


def plain(script: str) -> str:
    """The script, with words in place of the runner's expressions."""
    return re.sub(r"\$\{\{.*?\}\}", "word", script)


@pytest.mark.parametrize("script", ["run", "compare"])
def test_a_script_of_ci_can_be_run(script: str) -> None:
    path = ROOT / ".ci" / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("verdict", "written", "code"), [(0, True, 0), (1, True, 1), (2, True, 0), (2, False, 2)]
)
def test_only_slower_and_no_result_fail_a_job(tmp_path: Path, verdict: int, written: bool, code: int) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "compare", tmp_path / ".ci")
    stub = tmp_path / ".venv" / "bin" / "sparsekern"
    stub.parent.mkdir(parents=True)
    stub.write_text(f"#!/bin/sh\necho '| a table |'\n{'touch $5' if written else ':'}\nexit {verdict}\n")
    stub.chmod(0o755)
    done = subprocess.run([tmp_path / ".ci/compare", "a", "b", "time"], capture_output=True, check=False)
    assert done.returncode == code
    assert "| a table |" in (tmp_path / "compare.md").read_text()
