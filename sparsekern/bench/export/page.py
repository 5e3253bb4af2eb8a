"""A page to look through the records: one file that loads nothing, its data inside as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from sparsekern.bench.export.rows import Row, origin, plain, providers, rows, sizes
from sparsekern.bench.record import Record, strict_json
from sparsekern.bench.timing import Ratio


def html(records: Sequence[Record]) -> str:
    """The page: a table of all problems and providers to sort and filter, and plots with their numbers."""
    page = _template("bench.html")
    for mark, text in (
        ("/* style */", _template("bench.css")),
        ("/* script */", _template("bench.js")),
        (">{}</script>", f">{embedded(records)}</script>"),  # last: no mark is looked for in what it holds
    ):
        page = page.replace(mark, text, 1)
    return page


def embedded(records: Sequence[Record]) -> str:
    """The page's data as JSON that cannot end the element it stands in."""
    found, first = rows(records), records[0]
    known = {**first.machine, **first.versions, "commit": first.commit, "uncommitted changes": first.dirty}
    data = {
        "origin": origin(first),
        "facts": {name: _plain(value) for name, value in known.items() if value is not None},
        "providers": providers(found),
        "rows": [_row(row) for row in found],
    }
    return strict_json(data).replace("<", "\\u003c")


def _row(row: Row) -> dict[str, Any]:
    problem, ours = row.problem, row.ours
    known = {
        "op": problem["op"],
        "sizes": sizes(problem),
        "dtype": problem.get("dtype"),
        "block": plain(problem["block"]) if "block" in problem else None,
        "sparsity": problem.get("sparsity"),
        "threads": problem.get("threads"),
        "times": {
            name: _time(record) for name, record in row.records.items() if record.median_us is not None
        },
        "refusals": {
            name: record.refusal for name, record in row.records.items() if record.refusal is not None
        },
        "eager": _ratio(row.against_eager),
        "best": _ratio(row.against_best_dense),
        "best_dense": None if ours is None else ours.best_dense,
        "share": row.share,
        "kernel": None if ours is None else ours.kernel,
    }
    return {name: value for name, value in known.items() if value is not None}


def _time(record: Record) -> list[float | None]:
    low, high = record.interval_us or (record.median_us, record.median_us)
    return [record.median_us, low, high]


def _ratio(ratio: Ratio | None) -> list[float] | None:
    return None if ratio is None else list(asdict(ratio).values())


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _template(name: str) -> str:
    return resources.files("sparsekern.bench").joinpath(f"templates/{name}").read_text("utf-8")
