"""A clock of the tests' own, for what `swap_` decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import sparsekern.nn.measure as measure
import sparsekern.nn.prove as prove
from sparsekern.bench import Timing


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
