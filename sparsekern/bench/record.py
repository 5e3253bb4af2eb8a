"""Measurements as JSON lines: one record a line, append-only, strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
    samples_us: Sequence[float] | None = None
    """Time per call, round by round of the interleaved run that all providers of a problem share."""
    best_dense: str | None = None
    """The provider that `speedup` is against."""
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
    memory_bytes: int | None = None
    """Of a network's parameters and buffers, and its kernels' own indices."""
    file_bytes: int | None = None
    """Of its state as a safetensors file."""
    layers: Sequence[Mapping[str, object]] | None = None
    """What `swap_` did with each layer: the fields of a `LayerReport`."""
    time: str | None = None
    """When it was written: UTC, as in 2026-01-31T12:00:00+00:00."""

    def to_json(self) -> dict[str, object]:
        """The fields that are known, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def append(path: Path, *records: Record) -> None:
    """Add the records to the file at `path`, a line each. ValueError, nothing written, for NaN or infinity;
    OSError for a disk that takes no more, which may leave half a line (see `read`)."""
    lines = "".join(f"{strict_json(record.to_json())}\n" for record in records)
    with path.open("ab") as file:
        file.write(lines.encode("utf-8", "backslashreplace"))


def read(path: Path, *, cut_off: bool = False) -> list[Record]:
    """The records of the file at `path`, all of one machine, commit and set of versions.

    ValueError naming file and line for what is no record, for a file without any, and for records that
    differ in where they come from. With `cut_off` a last line that was not written to its end is left out,
    and there may be no record at all.
    """
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected JSON lines in UTF-8: {error}") from error
    if (last := lines.pop()) and not cut_off:
        raise ValueError(f"{path}, line {len(lines) + 1}: is cut off, got {last[:40]!r}")
    records = [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    if not records and not cut_off:
        raise ValueError(f"{path}: expected at least one record, got an empty file")
    for number, record in enumerate(records, 1):
        if difference := unlike(records[0], record):
            raise ValueError(f"{path}, line {number}: expected records of one origin, got {difference}")
    return records


ORIGIN = ("cpu", "cpus_usable", "architecture", "os", "isa")
"""What says which machine it is; the rest of `machine` is measured or set."""


def unlike(one: Record, other: Record) -> str | None:
    """In words, the first difference of machine, commit or versions; None if both come from the same."""
    for name, mine, theirs in (
        *((name, one.machine.get(name), other.machine.get(name)) for name in ORIGIN),
        ("commit", one.commit, other.commit),
        ("uncommitted changes", one.dirty, other.dirty),
        ("versions", dict(one.versions), dict(other.versions)),
    ):
        if mine != theirs:
            return f"{name} {mine} and {theirs}"
    return None


def _parsed(line: str, where: str) -> Record:
    try:
        values = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected a record of sparsekern in JSON: {error}") from error
    if not isinstance(values, dict) or not {"problem", "provider", "machine", "versions", "seed"} <= set(
        values
    ):
        raise ValueError(f"{where}: expected a record of sparsekern, got {line[:60]!r}")
    for name, value in values.items():
        expected, fits = _FIELDS.get(name, ("no such field", lambda _: False))
        if not fits(value):
            raise ValueError(f"{where}, {name}: expected {expected}, got {str(value)[:60]!r}")
    return Record(**values)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_number, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_TEXT = ("text", _is_text)
_COUNT = ("a whole number", lambda value: type(value) is int)
_TIME = ("a time above 0", lambda value: _is_number(value) and value > 0)
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "problem": ("an object with an op", lambda value: _is_object(value) and _is_text(value.get("op"))),
    "provider": _TEXT,
    "machine": ("an object", _is_object),
    "versions": (
        "an object of texts",
        lambda value: _is_object(value) and all(map(_is_text, value.values())),
    ),
    "seed": _COUNT,
    "commit": _TEXT,
    "dirty": ("true or false", lambda value: isinstance(value, bool)),
    "kernel": _TEXT,
    "median_us": _TIME,
    "interval_us": ("two numbers", lambda value: _are_numbers(value) and len(value) == 2),
    "samples_us": ("times above 0", lambda value: _are_numbers(value) and min(value) > 0),
    "best_dense": _TEXT,
    "speedup": (
        "value, low and high",
        lambda value: (
            _is_object(value) and all(_is_number(value.get(key)) for key in ("value", "low", "high"))
        ),
    ),
    "bytes": _COUNT,
    "flops": _COUNT,
    "limit_us": _TIME,
    "error": ("a number", _is_number),
    "refusal": _TEXT,
    "memory_bytes": _COUNT,
    "file_bytes": _COUNT,
    "layers": (
        "a list of objects",
        lambda value: isinstance(value, list) and all(map(_is_object, value)),
    ),
    "time": _TEXT,
}
"""field -> what it holds, in words and as a check."""


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
