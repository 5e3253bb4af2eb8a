"""pytest-benchmark: every rival on every case, one thread, one table per case.

    pytest benchmarks/ --benchmark-only          (SPARSEKERN_BENCH_TINY=1: sizes of a test)

Rivals here are timed one after the other; for ratios with intervals see `sparsekern bench linear`, which has
the same rivals.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from timed import TINY, time_rival

from sparsekern.cli.bench.cases_linear import LinearCase
from sparsekern.cli.bench.rivals import RIVALS

FULL_SIZE = (
    *(
        LinearCase(m, 1024, 1024, sparsity, block)
        for sparsity in (0.8, 0.9, 0.95)
        for block in ((1, 1), (16, 1))
        for m in (1, 32, 256)
    ),
    LinearCase(256, 300, 784, 0.9, (1, 1)),
    LinearCase(256, 4096, 1024, 0.9, (16, 1)),
)
CASES = (LinearCase(5, 48, 40, 0.9, (1, 1)), LinearCase(5, 48, 40, 0.9, (16, 1))) if TINY else FULL_SIZE


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear(benchmark: BenchmarkFixture, case: LinearCase, rival: str) -> None:
    time_rival(benchmark, case, rival)
