"""Results of the benchmark command with times that are made up."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from sparsekern.bench import Timing
from sparsekern.bench.record import Record, append
from sparsekern.cli.bench.cases import Case
from sparsekern.cli.bench.limit import Limit
from sparsekern.cli.bench.measure import Result


def result(case: Case, refusals: dict[str, str] | None = None, **times_us: float) -> Result:
    """All rounds of a rival take `times_us` of it; the limit is 1 us."""
    times = {rival: Timing(rival, (time,) * 5) for rival, time in times_us.items()}
    return Result(case, times, dict.fromkeys(times, 0.0), refusals or {}, "fast_kernel", Limit(1.0, 1, 1))


def records(blocks: tuple[str, ...] = ("1x1", "16x1"), **shared: object) -> list[Record]:
    """Of linear layers of two batches at three sparsities, with times that are made up; torch's BSR
    refuses."""
    origin: dict[str, Any] = {
        "machine": {
            "cpu": "Some CPU 9000",
            "cpus_usable": 2,
            "architecture": "x86_64",
            "os": "Linux 6",
            "isa": "avx2",
        },
        "versions": {"python": "3.11.7", "sparsekern": "0.1.0", "torch": "2.13.0"},
        "seed": 0,
        "commit": "0123456789abcdef",
        "dirty": False,
        "time": "2026-01-31T12:00:00+00:00",
        **shared,
    }
    found = []
    for m, block, sparsity in product((1, 16), blocks, (0.8, 0.9, 0.95)):
        size = [int(side) for side in block.split("x")]
        problem = {"op": "linear", "m": m, "n": 768, "k": 768, "sparsity": sparsity, "block": size}
        problem |= {"dtype": "float32", "threads": 1}
        ours = 50.0 * (1 - sparsity) * m**0.5 * (2 if block == "1x1" else 1) + 5 / sparsity
        medians = {"torch": 10.0 + m, "onednn": 9.0 + 2 * m, "sparsekern": ours}
        best = min(("torch", "onednn"), key=medians.__getitem__)
        for name, median in medians.items():
            timing = Timing(name, tuple(median * (1 + wobble / 100) for wobble in (-2, -1, 0, 1, 3)))
            speedup = medians[best] / median
            found.append(
                Record(
                    problem,
                    name,
                    kernel="rows" if name == "sparsekern" else None,
                    median_us=timing.median_us,
                    interval_us=timing.interval_us,
                    samples_us=timing.samples_us,
                    best_dense=best,
                    speedup={"value": speedup, "low": 0.97 * speedup, "high": 1.02 * speedup},
                    limit_us=0.4 * ours * sparsity,
                    **origin,
                )
            )
        found.append(Record(problem, "bsr_linear", refusal="takes | <b>whole</b> blocks", **origin))
    return found


def write(path: Path, found: list[Record]) -> Path:
    """The file that `sparsekern bench --json` would have left."""
    append(path, *found)
    return path
