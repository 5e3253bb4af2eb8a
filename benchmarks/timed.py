"""How one rival is timed on one case: set up and checked before the clock starts."""

from __future__ import annotations

import os

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from sparsekern.cli.bench.cases import Case
from sparsekern.cli.bench.measure import FAST_ALGORITHMS

TINY = os.environ.get("SPARSEKERN_BENCH_TINY") == "1"
"""Small enough for a test run; the times mean nothing then."""


def time_rival(benchmark: BenchmarkFixture, case: Case, rival: str) -> None:
    """Skips, in its own words, a rival that refuses the case."""
    tensors = case.tensors()
    x = tensors[2]
    with torch.inference_mode():
        call = case.prepare(rival, tensors)
        if isinstance(call, str):
            pytest.skip(f"{rival}: {call}")
        truth = case.truth(tensors)
        benchmark.extra_info["error"] = truth.check(call(x), x.dtype, loose=rival in FAST_ALGORITHMS)
        benchmark.group = str(case)
        benchmark.name = rival
        result = benchmark.pedantic(call, (x,), rounds=5) if TINY else benchmark(call, x)
    assert result.shape == truth.y.shape
