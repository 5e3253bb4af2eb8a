"""Two files of `sparsekern bench --json`: what their medians and intervals say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import exp, expm1, log, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

from sparsekern.bench.compare import CONFIDENCE, FEWEST_ROUNDS, Comparison

Found = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""case -> provider -> record."""

NOT_THE_MACHINE = ("fma_peak_gflops",)  # measured anew in every run


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file. ValueError for what `bench --json` does not write."""
    try:
        lines = [json.loads(text) for text in path.read_text("utf-8").splitlines() if text.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON lines of sparsekern bench: {error}") from None
    if not lines:
        raise ValueError(f"{path}: is empty, expected JSON lines of sparsekern bench")
    for number, record in enumerate(lines, 1):
        if wrong := _wrong(record):
            raise ValueError(f"{path}, line {number}: {wrong}; expected a record of sparsekern bench")
    return lines


def _wrong(record: Any) -> str | None:
    if not isinstance(record, dict):
        return f"is a {type(record).__name__}"
    for key, kind in (("problem", dict), ("provider", str), ("machine", dict)):
        if not isinstance(record.get(key), kind):
            return f"has no {key}"
    if "median_us" not in record:
        return None  # a refusal
    numbers = [record["median_us"], *_list(record.get("interval_us"))]
    fine = len(numbers) == 3 and all(isinstance(n, (int, float)) and 0 < n < float("inf") for n in numbers)
    return None if fine else "has no median_us and interval_us above 0"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def check_machines(base: list[dict[str, Any]], head: list[dict[str, Any]]) -> None:
    """ValueError naming what differs."""
    here, there = (_machine(records) for records in (base, head))
    for key in sorted({*here, *there}):
        if here.get(key) != there.get(key):
            raise ValueError(
                f"the machines differ: {key} is {here.get(key)} in BASE and {there.get(key)} in HEAD; "
                "expected one machine (--force compares all the same)"
            )


def _machine(records: list[dict[str, Any]]) -> dict[str, Any]:
    last: dict[str, Any] = records[-1]["machine"]
    return {key: value for key, value in last.items() if key not in NOT_THE_MACHINE}


def compare_files(base: list[dict[str, Any]], head: list[dict[str, Any]]) -> dict[str, Comparison]:
    """By case, in the order of base. ValueError if they have none in common.

    The interval joins those of the two medians. The floor is how far a rival, the same code in both files,
    moved in the same case; where no rival was timed no change can be told from drift, so it is infinite.
    """
    before, after = _by_case(base), _by_case(head)
    found = {name: _compare(before[name], after[name]) for name in before if _timed(name, before, after)}
    if not found:
        raise ValueError("BASE and HEAD have no case in common that sparsekern ran")
    return found


def _timed(name: str, *sides: Found) -> bool:
    return all("sparsekern" in side.get(name, {}) for side in sides)


def _by_case(records: list[dict[str, Any]]) -> Found:
    """Of several records of the same, the last."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        if "median_us" in record:
            name = ", ".join(_words(record["problem"]))
            found.setdefault(name, {})[record["provider"]] = record
    return found


def _words(problem: Mapping[str, Any]) -> Iterator[str]:
    for key, value in problem.items():
        yield f"{value}" if isinstance(value, str) else f"{key} {json.dumps(value)}"


def _compare(base: Mapping[str, Mapping[str, Any]], head: Mapping[str, Mapping[str, Any]]) -> Comparison:
    rivals = [rival for rival in base if rival in head and rival != "sparsekern"]
    moved = [abs(_effect(base[rival], head[rival])) for rival in rivals]
    ours, theirs = base["sparsekern"], head["sparsekern"]
    effect = _effect(ours, theirs)
    # The files hold 95 % intervals.
    wider = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) / NormalDist().inv_cdf(0.975)
    down = wider * sqrt(_reach(theirs, 0) ** 2 + _reach(ours, 1) ** 2)
    up = wider * sqrt(_reach(theirs, 1) ** 2 + _reach(ours, 0) ** 2)
    return Comparison(
        exp(effect),
        exp(effect - down),
        exp(effect + up),
        expm1(max(moved)) if moved else float("inf"),
        ours["median_us"],
        theirs["median_us"],
        FEWEST_ROUNDS,  # `bench` has made enough of its own
    )


def _effect(base: Mapping[str, Any], head: Mapping[str, Any]) -> float:
    return log(head["median_us"] / base["median_us"])


def _reach(record: Mapping[str, Any], end: int) -> float:
    """From the median to an end of its interval, in logarithms."""
    return abs(log(record["interval_us"][end] / record["median_us"]))
