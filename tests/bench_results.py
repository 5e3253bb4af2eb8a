"""Results of the benchmark command with times that are made up."""

from __future__ import annotations

from sparsekern.bench import Timing
from sparsekern.cli.bench.cases import Case
from sparsekern.cli.bench.limit import Limit
from sparsekern.cli.bench.measure import Result


def result(case: Case, refusals: dict[str, str] | None = None, **times_us: float) -> Result:
    """All rounds of a rival take `times_us` of it; the limit is 1 us."""
    times = {rival: Timing(rival, (time,) * 5) for rival, time in times_us.items()}
    return Result(case, times, dict.fromkeys(times, 0.0), refusals or {}, "fast_kernel", Limit(1.0, 1, 1))
