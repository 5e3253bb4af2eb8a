"""The results of a benchmark as JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsekern.bench.record import Record, append
from sparsekern.cli.bench.measure import Result


@dataclass(frozen=True)
class Journal:
    """Appends to the file at `path`, if there is one; `shared` are the fields that all records have."""

    path: Path | None
    threads: int
    shared: Mapping[str, Any]

    def write(self, result: Result, **problem: str) -> None:
        """One line for each rival; `problem` says more about what was computed."""
        if self.path is None:
            return  # asking for intervals costs time
        case: Any = result.case  # each kind of case is a dataclass of its sizes
        about = {"op": case.op, **asdict(case), **problem}
        least = {
            "flops": result.limit.flops,
            "bytes": result.limit.nbytes,
            "limit_us": result.limit.time_us,
        }
        for rival in (*result.times, *result.refusals):
            self.add(about, rival, **least, **_measured(result, rival))

    def add(self, problem: Mapping[str, object], provider: str, **known: Any) -> None:
        """One line; `known` are fields of `Record`."""
        if self.path is not None:
            about = {**problem, "threads": self.threads}
            append(self.path, Record(problem=about, provider=provider, seed=0, **self.shared, **known))


def _measured(result: Result, rival: str) -> dict[str, Any]:
    if rival in result.refusals:
        return {"refusal": result.refusals[rival]}
    timing, speedup = result.times[rival], result.against(result.best_dense, rival)
    return {
        "kernel": result.kernel if rival == "sparsekern" else None,
        "median_us": timing.median_us,
        "interval_us": timing.interval_us,
        "speedup": None if speedup is None else asdict(speedup),
        "error": result.errors[rival],
    }
