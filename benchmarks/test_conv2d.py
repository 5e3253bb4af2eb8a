"""pytest-benchmark: every rival on every convolution, one thread, one table per case.

    pytest benchmarks/ --benchmark-only          (SPARSEKERN_BENCH_TINY=1: sizes of a test)

Rivals here are timed one after the other; for ratios with intervals see `sparsekern bench conv2d`, which has
the same rivals.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from sparsekern.cli.bench.cases_conv import ConvCase, conv_cases
from sparsekern.cli.bench.measure import FAST_ALGORITHMS
from sparsekern.cli.bench.presets_conv import PRESETS_CONV2D
from sparsekern.cli.bench.rivals_conv import RIVALS_CONV2D
from sparsekern.cli.threads import torch_threads

TINY = os.environ.get("SPARSEKERN_BENCH_TINY") == "1"
"""Small enough for a test run; the times mean nothing then."""

TINY_SIZE = {"channels": ((8, 16),), "map": (9,), "padding": (1,), "stride": (1, 2), "blocks": ((1, 1),)}
CASES = conv_cases(PRESETS_CONV2D["quick" if TINY else "goals"], TINY_SIZE if TINY else {})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.mark.parametrize("rival", RIVALS_CONV2D)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d(benchmark: BenchmarkFixture, case: ConvCase, rival: str) -> None:
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
