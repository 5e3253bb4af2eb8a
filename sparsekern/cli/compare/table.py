"""What `sparsekern compare` prints: a Markdown table that a reviewer can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparsekern.cli.bench.table import line

_NONE = "\N{EN DASH}"


def table(rows: Mapping[str, Mapping[str, Any]], unit: str) -> Iterator[str]:
    """A line for each case, from what goes into the JSON file."""
    columns = ["case", f"base {unit}", f"head {unit}", "head / base (99 %)", "floor", "verdict"]
    yield line(columns)
    yield f"|{'---|' * len(columns)}"
    for name, row in rows.items():
        if refusal := row.get("refusal"):
            yield line([name, *[_NONE] * 4, refusal])
            continue
        floor = _NONE if row.get("floor") is None else f"{100 * row['floor']:.1f} %"
        yield line([name, _number(row["base"]), _number(row["head"]), ratio(row), floor, row["verdict"]])


def ratio(row: Mapping[str, Any]) -> str:
    """As in 1.031 (1.024 to 1.039)."""
    if "ratio" not in row:
        return _NONE
    between = f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else ""
    return f"{row['ratio']:.3f}{between}"


def _number(value: float | int | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
