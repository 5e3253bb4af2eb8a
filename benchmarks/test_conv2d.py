"""pytest-benchmark: every rival on every convolution, one thread, one table per case.

    pytest benchmarks/ --benchmark-only          (SPARSEKERN_BENCH_TINY=1: sizes of a test)

Rivals here are timed one after the other; for ratios with intervals see `sparsekern bench conv2d`, which has
the same rivals.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from timed import TINY, time_rival

from sparsekern.cli.bench.cases_conv import ConvCase, conv_cases
from sparsekern.cli.bench.presets_conv import PRESETS_CONV2D
from sparsekern.cli.bench.rivals_conv import RIVALS_CONV2D

TINY_SIZE = {"channels": ((8, 16),), "map": (9,), "padding": (1,), "stride": (1, 2), "blocks": ((1, 1),)}
CASES = conv_cases(PRESETS_CONV2D["quick" if TINY else "goals"], TINY_SIZE if TINY else {})


@pytest.mark.parametrize("rival", RIVALS_CONV2D)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d(benchmark: BenchmarkFixture, case: ConvCase, rival: str) -> None:
    time_rival(benchmark, case, rival)
