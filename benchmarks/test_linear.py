"""pytest-benchmark: every rival on every case, one thread, one table per case.

    pytest benchmarks/ --benchmark-only          (SPARSEKERN_BENCH_TINY=1: sizes of a test)

Rivals here are timed one after the other; for ratios with intervals see linear_table.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cases import CASES, RIVALS, TINY, Case, check, prepare
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear(benchmark: BenchmarkFixture, case: Case, rival: str) -> None:
    weight, bias, x = case.tensors()
    with torch.inference_mode():
        call = prepare(rival, case, weight, bias, x)
        if isinstance(call, str):
            pytest.skip(f"{rival}: {call}")
        benchmark.extra_info["error"] = check(call, weight, bias, x)
        benchmark.group = str(case)
        benchmark.name = rival
        result = benchmark.pedantic(call, (x,), rounds=5) if TINY else benchmark(call, x)
    assert result.shape == (case.m, case.n)
