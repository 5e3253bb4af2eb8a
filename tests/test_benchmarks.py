"""`pytest benchmarks/`: every rival of every operator, small, in the JSON of pytest-benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsekern.cli.bench.rivals import RIVALS, missing
from sparsekern.cli.bench.rivals_conv import RIVALS_CONV2D

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_operator_is_timed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--benchmark-only"]
    done = subprocess.run(
        [*command, f"--benchmark-json={tmp_path / 'out.json'}", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "SPARSEKERN_BENCH_TINY": "1", "PYTHONPATH": str(ROOT), "SPARSEKERN_TICKET": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SPARSEKERN_TICKET names no ticket" in done.stdout
    timed: dict[str, set[str]] = {}
    for entry in json.loads((tmp_path / "out.json").read_text())["benchmarks"]:
        timed.setdefault(entry["fullname"].partition("::")[0], set()).add(entry["name"])
    assert {name for name in RIVALS if missing(name) is None} == timed["test_linear.py"]
    assert {"torch", "sparsekern"} < timed["test_conv2d.py"] <= {*RIVALS_CONV2D}
    assert {"torch", "onednn", "swapped"} <= timed["test_network.py"]
