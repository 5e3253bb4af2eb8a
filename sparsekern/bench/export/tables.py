"""Plain tables: CSV with a line for each record, Markdown with a line for each problem."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Sequence
from typing import Any

from sparsekern.bench.export.rows import Row, origin, percent, plain, providers, rows, sizes
from sparsekern.bench.record import Record, strict_json

FIGURES = (
    "kernel",
    "median_us",
    "interval_us",
    "best_dense",
    "speedup",
    "limit_us",
    "flops",
    "bytes",
    "memory_bytes",
    "file_bytes",
    "error",
    "refusal",
    "seed",
    "commit",
    "dirty",
    "time",
)
"""Fields of a record that are columns of the CSV, after those of its problem, before those of its machine."""


def csv(records: Sequence[Record]) -> str:
    """A line for each record under a head of names; intervals and speed-ups take a column for each number."""
    lines = [_flat(record) for record in records]
    head = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv_module.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(record: Record) -> dict[str, Any]:
    flat: dict[str, Any] = {name: plain(value) for name, value in record.problem.items()}
    flat["provider"] = record.provider
    for name in FIGURES:
        value: Any = getattr(record, name)
        if name == "interval_us":
            flat |= dict(zip(("low_us", "high_us"), value or (None, None), strict=True))
        elif name == "speedup":
            parts = value or {}
            flat |= {f"speedup{end}": parts.get(key) for key, end in _SPEEDUP.items()}
        else:
            flat[name] = value
    flat["cpu"], flat["isa"] = record.machine.get("cpu"), record.machine.get("isa")
    return flat | {"versions": strict_json(record.versions)}


_SPEEDUP = {"value": "", "low": "_low", "high": "_high"}


def markdown(records: Sequence[Record]) -> str:
    """A table for each op, for a pull request: a line for each problem, and where the figures come from."""
    found = rows(records)
    ops = list(dict.fromkeys(row.problem["op"] for row in found))
    parts = [f"{origin(records[0])}\n"]
    for op in ops:
        parts.append(_table(str(op), [row for row in found if row.problem["op"] == op]))
    parts.append(
        "Times are medians in µs; ratios are above 1 where sparsekern is faster, with their 95 % interval; "
        "the limit is what FMA peak and bandwidth of this machine allow at least.\n"
    )
    return "\n".join(parts)


def _table(op: str, found: Sequence[Row]) -> str:
    names = providers(found)
    head = [op, "dtype", "block", "sparsity", "threads", *(f"{name} µs" for name in names)]
    head += ["against torch", "against best dense", "of the limit", "kernel"]
    lines = [_line(head), f"|{'---|' * len(head)}"]
    for row in found:
        problem, ours = row.problem, row.ours
        cells = [sizes(problem), *(_known(problem.get(name)) for name in ("dtype", "block"))]
        cells += [percent(problem.get("sparsity")), _known(problem.get("threads"))]
        cells += [_time(row.records.get(name)) for name in names]
        cells += [_known(row.against_eager), _known(row.against_best_dense)]
        share = row.share
        cells += ["" if share is None else f"{100 * share:.0f} %", _known(ours.kernel if ours else None)]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _time(record: Record | None) -> str:
    if record is None:
        return ""
    return "refuses" if record.median_us is None else f"{record.median_us:.1f}"


def _known(value: object) -> str:
    return "" if value is None else plain(value)


def _line(cells: Sequence[str]) -> str:
    """Names come from outside: a bar or a line break in one must not make another column or row."""
    safe = (" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(safe)} |"
