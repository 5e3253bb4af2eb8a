"""What every test starts from: one thread, one seed; and each CPU test once per ISA of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

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
