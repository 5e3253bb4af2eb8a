"""Measurements as JSON lines: one record a line, append-only, strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

Interval = tuple[float, float]


@dataclass(frozen=True)
class Record:
    """One measurement of one provider on one problem. What is None here is no key in the file."""

    problem: Mapping[str, object]
    """What was computed: op, m, n, k, block, sparsity, dtype, ..."""
    provider: str
    """Who computed it: "torch", "onednn", "sparsekern", ..."""
    machine: Mapping[str, object]
    versions: Mapping[str, str]
    seed: int
    commit: str | None = None
    dirty: bool | None = None
    """Whether the checkout at `commit` had uncommitted changes."""
    kernel: str | None = None
    """The kernel that was chosen, where the provider has several."""
    median_us: float | None = None
    interval_us: Interval | None = None
    """95 % interval of the median."""
    speedup: Mapping[str, float] | None = None
    """value, low, high against the best dense of the same interleaved run."""
    bytes: int | None = None
    """Bytes that must be moved at least once."""
    flops: int | None = None
    """Operations on nonzero weights."""
    limit_us: float | None = None
    """The least time that the FMA peak and the bandwidth, measured on the spot, allow."""
    error: float | None = None
    """Largest absolute error against float64."""
    refusal: str | None = None
    """Why this provider did not run, in words."""

    def to_json(self) -> dict[str, object]:
        """The fields that are known, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def append(path: Path, record: Record) -> None:
    """Add the record to the file at `path` as one line. ValueError, nothing written, for NaN or infinity."""
    line = strict_json(record.to_json()) + "\n"
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line)


def strict_json(value: object, indent: int | None = None) -> str:
    """JSON text of plain data; ValueError naming the place of a NaN or infinity, which JSON cannot hold."""
    if place := _not_finite(value, ""):
        raise ValueError(f"{place} is not a finite number: a missing number is a missing key")
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def _not_finite(value: object, place: str) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{place or 'the value'} = {value}"
    if isinstance(value, Mapping):
        found = (_not_finite(item, f"{place}.{key}".lstrip(".")) for key, item in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        found = (_not_finite(item, f"{place}[{index}]") for index, item in enumerate(value))
    else:
        return None
    return next(filter(None, found), None)
