"""pytest-benchmark: every rival on every case, one thread, one table per case.

    pytest benchmarks/ --benchmark-only          (SPARSEKERN_BENCH_TINY=1: sizes of a test)

Rivals here are timed one after the other; for ratios with intervals see `sparsekern bench linear`, which has
the same rivals.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from timed import TINY, time_rival

from sparsekern.cli.bench.cases_linear import LinearCase, cases
from sparsekern.cli.bench.presets import PRESETS
from sparsekern.cli.bench.rivals import RIVALS

TINY_SIZE = {"shapes": ((48, 40),), "batches": (5,), "sparsities": (0.9,), "blocks": ((1, 1), (16, 1))}
CASES = cases(PRESETS["quick" if TINY else "goals"], TINY_SIZE if TINY else {})


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear(benchmark: BenchmarkFixture, case: LinearCase, rival: str) -> None:
    time_rival(benchmark, case, rival)
