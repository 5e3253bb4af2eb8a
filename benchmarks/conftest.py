"""What every benchmark here shares: one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparsekern.cli.threads import torch_threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Rivals are compared on one."""
    with torch_threads(1):
        yield
