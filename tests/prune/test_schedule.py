"""Schedules against their formulas, in exact fractions where that can be."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsekern.prune import Constant, Cubic, Exponential, Geometric

shares = st.floats(0, 0.999)
lengths = st.integers(1, 300)


@given(shares, lengths, st.data())
def test_every_schedule_starts_at_its_start_rises_and_stays_at_its_end(
    share: float, steps: int, data: st.DataObject
) -> None:
    initial = data.draw(st.floats(0, share))
    for schedule, start, end in (
        (Constant(share, steps), share, share),
        (Exponential(share, steps), 0, share),
        (Cubic(share, steps, initial), initial, share),
        (Geometric(share, steps), 0, 1 - (1 - share) ** steps),
    ):
        course = [schedule.sparsity(step) for step in range(steps + 3)]
        assert course[0] == pytest.approx(start, abs=1e-12)
        assert course[steps:] == [course[steps]] * 3 and course[steps] == pytest.approx(end, abs=1e-12)
        assert all(0 <= value <= 1 for value in course)
        assert all(before <= after + 1e-12 for before, after in pairwise(course))


def test_the_cubic_is_that_of_zhu_and_gupta() -> None:
    first, last, steps = Fraction(1, 10), Fraction(9, 10), 8
    for step in range(steps + 1):
        exact = last + (first - last) * (1 - Fraction(step, steps)) ** 3
        assert Cubic(0.9, steps, 0.1).sparsity(step) == pytest.approx(float(exact), abs=1e-15)


def test_rounds_drop_a_share_of_what_is_left() -> None:
    for step in range(20):
        assert Geometric(0.2, 16).sparsity(step) == pytest.approx(float(1 - Fraction(4, 5) ** min(step, 16)))
    assert Geometric(0.2).sparsity(1) == pytest.approx(0.2)


def test_the_exponential_has_one_factor_between_any_two_steps() -> None:
    schedule = Exponential(0.99, 100)
    left = [1 - schedule.sparsity(step) for step in range(101)]
    assert left[50] == pytest.approx(0.1) and left[100] == pytest.approx(0.01)
    factors = [after / before for before, after in pairwise(left)]
    assert factors == pytest.approx([0.01**0.01] * 100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Geometric(1.0), r"rate must be in \[0, 1\), got 1.0"),
        (lambda: Geometric(0.2, 0), "steps must be a positive int, got 0"),
        (lambda: Constant(-0.1), r"final must be in \[0, 1\), got -0.1"),
        (lambda: Exponential(float("nan"), 3), r"final must be in \[0, 1\), got nan"),
        (lambda: Cubic(0.5, 2.0), "steps must be a positive int, got 2.0"),  # type: ignore[arg-type]
        (lambda: Cubic(0.5, 2, 0.6), "initial must be at most final, got 0.6 and 0.5"),
        (lambda: Cubic(0.5, 2).sparsity(-1), "step must be at least 0, got -1"),
        (lambda: Constant(0.5).sparsity(-1), "step must be at least 0, got -1"),
    ],
)
def test_what_makes_no_schedule_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
