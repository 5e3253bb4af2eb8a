"""Searches in processes of their own: they end with the run, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsekern.bench import machine
from sparsekern.cli.searches import search_all
from sparsekern.tickets import SearchConfig, task

ENDLESS = 10_000_000
CHILD = f"""
import signal, sys
from pathlib import Path
from sparsekern.bench import machine
from sparsekern.cli.searches import search_all
from sparsekern.tickets import SearchConfig, task
signal.signal(signal.SIGINT, signal.default_int_handler)
machine.usable_cpus = lambda: 2
configs = [SearchConfig(task(iterations={ENDLESS}), seed=seed) for seed in (0, 1)]
search_all(configs, Path(sys.argv[1]), lambda name, event: print(event["event"], flush=True))
"""


def endless(**recipe: Any) -> SearchConfig:
    return SearchConfig(task(**{"iterations": ENDLESS, "eval_every": 1, **recipe}))


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_a_stopped_run(how: signal.Signals, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "start\n"
        child.send_signal(how)
        # The workers hold the pipe too: it ends when the last of them has.
        child.communicate(timeout=20)
        assert child.returncode == -how
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        raise


@pytest.mark.usefixtures("two_cpus")
def test_the_error_of_one_search_ends_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training diverged"):
        search_all([endless(), endless(optimizer="sgd", lr=1e30)], tmp_path, lambda name, event: None)
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("two_cpus")
def test_a_search_that_is_killed_is_an_error(tmp_path: Path) -> None:
    def kill(name: str, event: dict[str, Any]) -> None:
        multiprocessing.active_children()[0].kill()

    with pytest.raises(ChildProcessError, match="a search was ended with exit code -9"):
        search_all([endless(), endless(batch=10)], tmp_path, kill)
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("two_cpus")
def test_processes_find_what_one_process_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = task(iterations=4, eval_every=2)
    configs = [SearchConfig(short, rounds=1, seed=seed, controls=()) for seed in range(3)]
    heard: list[tuple[str, str]] = []
    found = search_all(configs, tmp_path / "a", lambda name, event: heard.append((name, event["event"])))
    assert heard.count((configs[2].digest, "done")) == 2 and len(heard) == 3 * 2 * 4
    monkeypatch.setattr(machine, "usable_cpus", lambda: 1)
    (alone,) = search_all(configs[2:], tmp_path / "b", lambda name, event: None)
    assert [one.config.seed for one in found] == [0, 1, 2]
    for name, value in found[2].rounds[1].final.items():
        assert value.equal(alone.rounds[1].final[name])
