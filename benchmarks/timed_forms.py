"""How one form of a network is timed: all forms are made and checked once, before any clock starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timed import TINY

from sparsekern.cli.bench.forms import Calls, Outcome


def time_form(benchmark: BenchmarkFixture, made: tuple[Outcome, Calls], form: str) -> None:
    """Skips, in its own words, a form that there is not."""
    outcome, calls = made
    if form not in calls:
        pytest.skip(f"{form}: {outcome.refusals[form]}")
    benchmark.extra_info["error"] = outcome.errors[form]
    benchmark.group, benchmark.name = str(outcome.case), form
    with torch.inference_mode():
        result: Any = benchmark.pedantic(calls[form], rounds=5) if TINY else benchmark(calls[form])
    assert isinstance(result, torch.Tensor)
