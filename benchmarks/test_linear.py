"""pytest-benchmark: every rival on every case, one thread, one table per case.

    pytest benchmarks/ --benchmark-only          (SPARSEKERN_BENCH_TINY=1: sizes of a test)

Rivals here are timed one after the other; for ratios with intervals see `sparsekern bench linear`, which has
the same rivals.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from sparsekern.cli.bench.cases_linear import LinearCase
from sparsekern.cli.bench.rivals import RIVALS
from sparsekern.cli.threads import torch_threads

TINY = os.environ.get("SPARSEKERN_BENCH_TINY") == "1"
"""Small enough for a test run; the times mean nothing then."""

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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear(benchmark: BenchmarkFixture, case: LinearCase, rival: str) -> None:
    tensors = case.tensors()
    x = tensors[2]
    with torch.inference_mode():
        call = case.prepare(rival, tensors)
        if isinstance(call, str):
            pytest.skip(f"{rival}: {call}")
        benchmark.extra_info["error"] = case.truth(tensors).check(call(x), x.dtype)
        benchmark.group = str(case)
        benchmark.name = rival
        result = benchmark.pedantic(call, (x,), rounds=5) if TINY else benchmark(call, x)
    assert result.shape == (case.m, case.n)
