"""pytest-benchmark: every form of a ticket's network, one thread.

    SPARSEKERN_TICKET=ticket.safetensors pytest benchmarks/ --benchmark-only

Forms here are timed one after the other; for ratios with intervals, and for any other network, see
`sparsekern bench ticket` and `bench model`, which have the same forms.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timed_forms import time_form

from sparsekern import zoo
from sparsekern.cli.bench.forms import FORMS, Calls, Outcome, make_forms
from sparsekern.cli.bench.model import plain, ticket_network


@cache
def made(path: str) -> tuple[Outcome, Calls]:
    model = plain(ticket_network(Path(path)))
    x = zoo.example(model, 1, torch.Generator().manual_seed(1))
    outcome = Outcome(Path(path).name)
    return outcome, make_forms(outcome, model, (x,), None)


@pytest.mark.parametrize("form", FORMS)
def test_ticket(benchmark: BenchmarkFixture, form: str) -> None:
    if not (path := os.environ.get("SPARSEKERN_TICKET")):
        pytest.skip("SPARSEKERN_TICKET names no ticket of `sparsekern run`")
    time_form(benchmark, made(path), form)
