"""The log of a search: every event of what was trained, nothing of what was read back, and whole lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsekern.tickets import Search, SearchConfig, search, task

CONFIG = SearchConfig(task(iterations=6, eval_every=3), rounds=1)
RUNS = [("ticket", 0), ("ticket", 1), ("reinit", 1)]
EVENTS = ["start", "eval", "eval", "done"]


@pytest.fixture
def found(tmp_path: Path) -> Search:
    return search(CONFIG, out=tmp_path)


def logged(out: Path) -> list[dict[str, Any]]:
    text = (out / CONFIG.digest / "log.jsonl").read_text("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def told(events: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(event["kind"], event["round"], event["event"]) for event in events]


def test_the_log_has_every_event(found: Search, tmp_path: Path) -> None:
    events = logged(tmp_path)
    assert told(events) == [(*run, event) for run in RUNS for event in EVENTS]
    times = [event.pop("time") for event in events]
    assert times == sorted(times) and times[0] > 1e9
    for at, result in enumerate((*found.rounds, *found.controls["reinit"])):
        who = {"kind": result.kind, "round": result.round, "sparsity": result.sparsity}
        figures = {name: getattr(result, name) for name in ("val_accuracy", "test_accuracy", "seconds")}
        assert events[4 * at : 4 * at + 4] == [
            {"event": "start", **who, "iterations": 6},
            *({"event": "eval", **who, **vars(point)} for point in result.curve),
            {"event": "done", **who, **figures, "resumed": False},
        ]


@pytest.mark.usefixtures("found")
def test_what_is_read_back_is_not_logged_again(tmp_path: Path) -> None:
    before = logged(tmp_path)
    search(CONFIG, out=tmp_path)
    assert logged(tmp_path) == before
    (tmp_path / CONFIG.digest / "ticket-01.safetensors").unlink()
    search(CONFIG, out=tmp_path)
    after = logged(tmp_path)
    assert after[: len(before)] == before
    assert told(after[len(before) :]) == [("ticket", 1, event) for event in EVENTS]


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("kept", [1, 3])
def test_a_line_that_a_full_disk_cut_makes_no_other_unreadable(kept: int, tmp_path: Path) -> None:
    folder = tmp_path / CONFIG.digest
    lines = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "log.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:-20])
    (folder / "reinit-01.safetensors").unlink()
    search(CONFIG, out=tmp_path)
    events = logged(tmp_path)
    assert events[:kept] == [json.loads(line) for line in lines[:kept]]
    assert told(events[kept:]) == [("reinit", 1, event) for event in EVENTS]
