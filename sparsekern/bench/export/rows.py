"""Records side by side: everybody who computed the same problem in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparsekern.bench.record import Record, strict_json
from sparsekern.bench.timing import Ratio, Timing, ratio

OURS = ("sparsekern", "swapped")
EAGER = "torch"


@dataclass
class Row:
    """A problem, and its records by provider."""

    problem: Mapping[str, object]
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def ours(self) -> Record | None:
        """The fastest of those of sparsekern; None if none was timed."""
        found = [self.records[name] for name in OURS if name in self.records]
        timed = [record for record in found if record.median_us is not None]
        return min(timed, key=lambda record: record.median_us or 0.0) if timed else None

    @property
    def against_best_dense(self) -> Ratio | None:
        """Speed-up of sparsekern over the best dense provider."""
        return Ratio(**self.ours.speedup) if self.ours is not None and self.ours.speedup else None

    @property
    def against_eager(self) -> Ratio | None:
        """Speed-up of sparsekern over eager torch; None where a sample is missing."""
        eager, ours = self.records.get(EAGER), self.ours
        if eager is None or ours is None or not eager.samples_us or not ours.samples_us:
            return None
        return ratio(Timing(EAGER, tuple(eager.samples_us)), Timing("ours", tuple(ours.samples_us)))

    @property
    def share(self) -> float | None:
        """The time of the physical limit over that of sparsekern."""
        if self.ours is None or self.ours.limit_us is None or self.ours.median_us is None:
            return None
        return self.ours.limit_us / self.ours.median_us


def rows(records: Sequence[Record]) -> list[Row]:
    """A row for each problem, in the order of the records; a problem that was timed twice has two."""
    found: list[Row] = []
    latest: dict[str, Row] = {}
    for record in records:
        key = strict_json(record.problem)
        if key not in latest or record.provider in latest[key].records:
            found.append(Row(record.problem))
            latest[key] = found[-1]
        latest[key].records[record.provider] = record
    return found


def providers(found: Sequence[Row]) -> list[str]:
    """Everybody who is in a row, sparsekern last."""
    names = list(dict.fromkeys(name for row in found for name in row.records))
    return sorted(names, key=lambda name: name in OURS)


def sizes(problem: Mapping[str, object]) -> str:
    """What has no column of its own, such as "m 16, n 768, k 768"."""
    columns = ("op", "sparsity", "block", "dtype", "threads")
    rest = {name: value for name, value in problem.items() if name not in columns and value is not None}
    return ", ".join(f"{name.replace('_', ' ')} {plain(value)}" for name, value in rest.items())


def plain(value: object) -> str:
    """A value of a problem in a table: [16, 1] as 16x1."""
    return "x".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


def percent(share: object) -> str:
    """0.9 as "90 %"; nothing for what is no number."""
    return f"{100 * share:.4g} %" if isinstance(share, int | float) else ""


def origin(record: Record) -> str:
    """Where records come from, in a line."""
    machine, versions = record.machine, record.versions
    commit = f"commit {record.commit[:12]}{' with changes' if record.dirty else ''}" if record.commit else ""
    known = [str(machine.get("cpu", "unknown CPU")), str(machine.get("isa", "")), commit]
    known += [f"{name} {versions[name]}" for name in ("sparsekern", "torch", "python") if name in versions]
    return ", ".join(filter(None, known))
