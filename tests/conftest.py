"""What every test starts from: one thread, one seed; and each CPU test once per ISA of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch

import sparsekern.nn.measure as measure
import sparsekern.nn.prove as prove
from sparsekern.bench import Timing
from sparsekern.kernels import cpu

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = (
        "1"  # read when Triton is imported, which is when a kernel of it is loaded
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Before any fixture of a module trains something: bits depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture(params=cpu.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with cpu.using_isa(request.param):
        yield request.param


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A clock of the test's own, so that no decision hangs on this machine's load."""

    def set_clock(**us: float) -> None:
        def interleave(calls: dict[str, Callable[[], object]], **_: object) -> dict[str, Timing]:
            for call in calls.values():
                call()
            times = {name: us.get(name, us["sparse"] if name.startswith("(") else 1e3) for name in calls}
            return {name: Timing(name, (t, t * 1.01, t * 0.99, t, t)) for name, t in times.items()}

        monkeypatch.setattr(measure, "interleave", interleave)
        monkeypatch.setattr(prove, "interleave", interleave)

    return set_clock
