"""pytest-benchmark: every form of every network, one thread, one table per network.

    pytest benchmarks/ --benchmark-only          (SPARSEKERN_BENCH_TINY=1: sizes of a test)

Forms here are timed one after the other; for ratios with intervals see `sparsekern bench network`, which has
the same forms.
"""

from __future__ import annotations

from functools import cache

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from timed import TINY
from timed_forms import time_form

from sparsekern.cli.bench.forms import FORMS, Calls, Outcome, make_forms
from sparsekern.cli.bench.network import NetworkCase, of_case
from sparsekern.cli.bench.presets import NETWORKS

CASES = [NetworkCase(name, 1, 0.9, (1, 1)) for name in (("lenet300",) if TINY else NETWORKS)]


@cache
def made(case: NetworkCase) -> tuple[Outcome, Calls]:
    outcome = Outcome(case)
    return outcome, make_forms(outcome, *of_case(case))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_network(benchmark: BenchmarkFixture, case: NetworkCase, form: str) -> None:
    time_form(benchmark, made(case), form)
