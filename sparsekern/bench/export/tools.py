"""Files that other benchmark tools read: pytest-benchmark and asv (s), github-action-benchmark (us)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import mean, median, quantiles, stdev
from typing import Any

from sparsekern.bench.export.rows import origin, percent, plain, sizes
from sparsekern.bench.record import ORIGIN, Record, strict_json
from sparsekern.bench.timing import Timing


def pytest_benchmark(records: Sequence[Record]) -> str:
    """What `pytest --benchmark-json` writes (version 5), for `pytest-benchmark compare`.

    One benchmark for each record with a time; a round is a sample. ValueError for one without samples or
    time of day.
    """
    first = records[0]
    machine, versions = first.machine, first.versions
    whole = {
        "machine_info": {
            "machine": machine.get("architecture"),
            "system": str(machine.get("os")).partition(" ")[0],
            "release": str(machine.get("os")).partition(" ")[2],
            "python_version": versions.get("python"),
            "cpu": {"brand_raw": machine.get("cpu"), "count": machine.get("cpus_usable")},
            "isa": machine.get("isa"),
            "versions": dict(versions),
        },
        "commit_info": {
            "id": first.commit or "unversioned",
            "dirty": bool(first.dirty),
            "project": "sparsekern",
        },
        "benchmarks": [_benchmark(record) for record in _timed(records)],
        "datetime": _when(first).isoformat(),
        "version": "5.0.0",
    }
    return strict_json(whole, indent=2) + "\n"


def _benchmark(record: Record) -> dict[str, Any]:
    about = problem_id(record)
    extra = {"kernel": record.kernel, "error": record.error, "speedup": record.speedup}
    return {
        "group": about,
        "name": f"{record.provider}[{about}]",
        "fullname": f"sparsekern::{record.problem['op']}::{record.provider}[{about}]",
        "params": {**record.problem, "provider": record.provider},
        "param": f"{about}-{record.provider}",
        "extra_info": {name: value for name, value in extra.items() if value is not None},
        "options": {"timer": "perf_counter_ns"},
        "stats": _stats([time / 1e6 for time in record.samples_us or ()]),
    }


def _stats(samples_s: Sequence[float]) -> dict[str, Any]:
    """pytest-benchmark's figures of a sample, s; outliers are counted as it does."""
    ordered = sorted(samples_s)
    centre, spread = mean(ordered), stdev(ordered) if len(ordered) > 1 else 0.0
    q1, _, q3 = quantiles(ordered, method="inclusive") if len(ordered) > 1 else ordered * 3
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    beyond_spread = sum(abs(value - centre) > spread for value in ordered)
    beyond_iqr = sum(not low <= value <= high for value in ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": centre,
        "stddev": spread,
        "rounds": len(ordered),
        "median": median(ordered),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond_iqr,
        "stddev_outliers": beyond_spread,
        "outliers": f"{beyond_spread};{beyond_iqr}",
        "ld15iqr": min(value for value in ordered if value >= low),
        "hd15iqr": max(value for value in ordered if value <= high),
        "ops": 1 / centre,
        "total": sum(ordered),
        "data": list(samples_s),
        "iterations": 1,
    }


def gha(records: Sequence[Record]) -> str:
    """github-action-benchmark's `customSmallerIsBetter`: name, unit, value, range, extra."""
    entries = []
    for record in records:
        if record.median_us is None:
            continue
        entry = {"name": f"{problem_id(record)} {record.provider}", "unit": "us", "value": record.median_us}
        if record.interval_us:
            low, high = record.interval_us
            entry["range"] = f"± {(high - low) / 2:.3g}"
        entries.append({**entry, "extra": f"median, 95 % interval; {origin(record)}"})
    return strict_json(entries, indent=2) + "\n"


def asv(records: Sequence[Record]) -> dict[str, str]:
    """The folder that asv calls `results_dir`: benchmarks.json and a folder of the machine with one result.

    A benchmark for each provider that was timed, its parameter the problem, in s; a problem it refused has
    null, which asv calls failed. ValueError for records of no commit.
    """
    first = records[0]
    if first.commit is None:
        raise ValueError(
            "asv files results by commit: expected records of a git checkout, there is no commit"
        )
    machine = re.sub(r"[^\w-]+", "-", str(first.machine.get("cpu", "unknown"))).strip("-").lower()
    python = first.versions.get("python", "unknown")
    names = list(dict.fromkeys(_asv_name(record) for record in records if record.median_us is not None))
    params = list(dict.fromkeys(map(problem_id, records)))
    began = int(_when(first).timestamp() * 1000)
    by_place = {(_asv_name(record), problem_id(record)): record for record in records}
    results, benchmarks = {}, {}
    for name in names:
        column = [by_place.get((name, param)) for param in params]
        results[name] = _asv_result(column, [params], began)
        benchmarks[name] = _asv_benchmark(name, params)
    about = {key: plain(first.machine.get(key)) for key in ORIGIN if key in first.machine}
    machine_facts = {"machine": machine, **about, "arch": plain(first.machine.get("architecture"))}
    environment = f"existing-py{python}"
    result = {
        "commit_hash": first.commit,
        "env_name": environment,
        "date": began,
        "params": {**machine_facts, "python": python},
        "python": python,
        "requirements": {},
        "env_vars": {},
        "result_columns": _COLUMNS,
        "results": results,
        "durations": {},
        "version": 2,
    }
    return {
        "benchmarks.json": json.dumps({**benchmarks, "version": 2}, indent=2) + "\n",
        f"{machine}/machine.json": json.dumps({**machine_facts, "version": 1}, indent=2) + "\n",
        f"{machine}/{first.commit[:8]}-{environment}.json": strict_json(result, indent=2) + "\n",
    }


_COLUMNS = [
    *("result", "params", "version", "started_at", "duration"),
    *(
        "stats_ci_99_a",
        "stats_ci_99_b",
        "stats_q_25",
        "stats_q_75",
        "stats_number",
        "stats_repeat",
        "samples",
    ),
]


def _asv_name(record: Record) -> str:
    return f"{record.problem['op']}.time_{record.provider}"


def _asv_result(column: Sequence[Record | None], params: list[list[str]], began: int) -> list[Any]:
    medians = [_seconds(record.median_us) if record is not None else None for record in column]
    samples = [record.samples_us if record is not None else None for record in column]
    ends = [Timing("", tuple(times)).interval_at(0.99) if times else None for times in samples]
    quarters = [
        quantiles(times, method="inclusive") if times and len(times) > 1 else None for times in samples
    ]
    return [
        medians,
        [[json.dumps(param) for param in values] for values in params],
        "1",
        began,
        None,
        [_seconds(end[0]) if end else None for end in ends],
        [_seconds(end[1]) if end else None for end in ends],
        [_seconds(quarter[0]) if quarter else None for quarter in quarters],
        [_seconds(quarter[2]) if quarter else None for quarter in quarters],
        [1 if times else None for times in samples],
        [len(times) if times else None for times in samples],
        [[time / 1e6 for time in times] if times else None for times in samples],
    ]


def _asv_benchmark(name: str, params: Sequence[str]) -> dict[str, Any]:
    return {
        "code": "",
        "name": name,
        "param_names": ["problem"],
        "params": [[json.dumps(param) for param in params]],
        "type": "time",
        "unit": "seconds",
        "version": "1",
        "timeout": 60.0,
    }


def problem_id(record: Record) -> str:
    """The problem in a name: op, sizes, dtype, block, sparsity, threads."""
    problem: Mapping[str, Any] = record.problem
    parts = [str(problem["op"]), sizes(problem), str(problem.get("dtype", ""))]
    parts += [plain(problem.get("block", "")), percent(problem.get("sparsity"))]
    return ", ".join(filter(None, [*parts, f"{problem.get('threads', 1)} threads"]))


def _timed(records: Sequence[Record]) -> list[Record]:
    timed = [record for record in records if record.median_us is not None]
    for record in timed:
        if not record.samples_us:
            raise ValueError(
                f"{problem_id(record)}, {record.provider}: expected samples_us, older versions wrote none"
            )
    return timed


def _when(record: Record) -> datetime:
    try:
        return datetime.fromisoformat(record.time or "")
    except ValueError as error:
        raise ValueError(
            f"expected records with the time of day they were made, got {record.time!r}"
        ) from error


def _seconds(time_us: float | None) -> float | None:
    return None if time_us is None else time_us / 1e6
