"""The results of a benchmark as JSON lines, and what is made of them in the end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sparsekern.bench import Ratio, Timing
from sparsekern.bench.atomic import write_atomically
from sparsekern.bench.export import EXPORTS, export
from sparsekern.bench.record import Record, append, read, strict_json, unlike
from sparsekern.cli.bench.measure import Result
from sparsekern.cli.bench.options import destination

Problem = Mapping[str, object]


@dataclass
class Journal:
    """Appends to the file at `path`, if there is one; `shared` are the fields that all records have.
    `records` are those written, and, resumed, those that were there before."""

    path: Path | None
    threads: int
    shared: Mapping[str, Any]
    exports: Mapping[str, Path] = field(default_factory=dict)
    """name of EXPORTS -> where it goes in the end."""
    records: list[Record] = field(default_factory=list)
    kept: dict[str, set[str]] = field(default_factory=dict)
    """Of an earlier run that is resumed: the providers of each problem."""

    def write(self, result: Result, **problem: str) -> None:
        """One line for each rival; `problem` says more about what was computed."""
        if not self.wanted:
            return  # asking for intervals costs time
        least = {
            "flops": result.limit.flops,
            "bytes": result.limit.nbytes,
            "limit_us": result.limit.time_us,
        }
        rivals = (*result.times, *result.refusals)
        self.add(
            about(result.case, **problem), {rival: {**least, **_measured(result, rival)} for rival in rivals}
        )

    @property
    def wanted(self) -> bool:
        """Whether anybody will read what is added."""
        return self.path is not None or bool(self.exports)

    def add(self, problem: Problem, known: Mapping[str, Mapping[str, Any]]) -> None:
        """A line for each provider, all in one write; what is `known` of it are fields of `Record`."""
        if not self.wanted:
            return
        whole = {**problem, "threads": self.threads}
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        records = [
            Record(problem=whole, provider=provider, seed=0, time=now, **self.shared, **fields)
            for provider, fields in known.items()
        ]
        if self.path is not None:
            append(self.path, *records)
        self.records += records

    def has(self, problem: Problem, providers: Collection[str]) -> bool:
        """Whether all of these are there for the problem; one of which a killed run wrote only some is
        dropped."""
        key = _key({**problem, "threads": self.threads})
        found = self.kept.get(key, set())
        if found and not set(providers) <= found:
            del self.kept[key]
            self.records = [record for record in self.records if _key(record.problem) != key]
            self.rewrite()
            return False
        return bool(found)

    def rewrite(self) -> None:
        """Make the file what `records` are."""
        assert self.path is not None
        lines = "".join(f"{strict_json(record.to_json())}\n" for record in self.records)
        write_atomically(self.path, lines.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Write the exports."""
        for name, path in self.exports.items():
            export(self.records, name, path)


def open_journal(options: argparse.Namespace, shared: Mapping[str, Any]) -> Journal:
    """The journal that `--json`, `--resume` and the exports ask for.

    ValueError, nothing changed, for a file that is no JSON lines of ours, or comes from another machine,
    commit or version than `shared`: one file has one origin.
    """
    exports = {name: path for name in EXPORTS if (path := getattr(options, destination(name))) is not None}
    journal = Journal(options.json, options.threads, shared, exports)
    if journal.path is None or not journal.path.stat().st_size:
        return journal
    records = read(journal.path, cut_off=options.resume)
    here = Record({}, "", seed=0, **shared)
    if records and (difference := unlike(records[0], here)):
        raise ValueError(
            f"--json {journal.path}: expected a file of one origin, got {difference}; start another"
        )
    if options.resume:
        journal.records = records
        for record in records:
            journal.kept.setdefault(_key(record.problem), set()).add(record.provider)
        journal.rewrite()
    return journal


def check_outputs(options: argparse.Namespace) -> None:
    """That all files can be written is known before anything is timed: ValueError or OSError if not."""
    if options.resume and options.json is None:
        raise ValueError("--resume: expected --json with the file to go on with")
    if options.json is not None:
        options.json.open("a").close()
    for name in EXPORTS:
        path = getattr(options, destination(name))
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"--{name} {path}: expected a folder {path.parent}, there is none")


def about(case: Any, **more: str) -> dict[str, object]:
    """The problem of a case, which is a dataclass of its sizes."""
    return {"op": case.op, **asdict(case), **more}


def timed(timing: Timing) -> dict[str, Any]:
    """Fields of `Record` on a timing."""
    return {
        "median_us": timing.median_us,
        "interval_us": timing.interval_us,
        "samples_us": tuple(round(sample, 3) for sample in timing.samples_us),
    }


def sped_up(best_dense: str | None, speedup: Ratio | None) -> dict[str, Any]:
    """Fields of `Record` on a speed-up; none of them without one."""
    return {} if speedup is None else {"best_dense": best_dense, "speedup": asdict(speedup)}


def _key(problem: Problem) -> str:
    return json.dumps(problem, sort_keys=True)


def _measured(result: Result, rival: str) -> dict[str, Any]:
    if rival in result.refusals:
        return {"refusal": result.refusals[rival]}
    best = result.best_dense
    return {
        "kernel": result.kernel if rival == "sparsekern" else None,
        **timed(result.times[rival]),
        **sped_up(best, result.against(best, rival)),
        "error": result.errors[rival],
    }
