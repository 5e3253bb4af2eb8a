"""The paired difference and the tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsekern.tickets import MATCH_TOLERANCE, difference, matched


def predictions(right: int, wrong_from: int = 0, count: int = 1000) -> Tensor:
    """`right` of `count` images right, beginning at image `wrong_from`; every label is 0."""
    values = torch.ones(count, dtype=torch.uint8)
    values[wrong_from : wrong_from + right] = 0
    return values


LABELS = torch.zeros(1000, dtype=torch.int64)


def test_points_are_the_exact_difference_and_the_interval_is_the_bootstrap() -> None:
    dense, ticket = predictions(850), predictions(860, wrong_from=20)
    found = difference([dense], [ticket], LABELS)
    assert found.points == pytest.approx(1.0)
    gains = (ticket == 0).numpy().astype(int) - (dense == 0).numpy().astype(int)
    picks = np.random.default_rng(1).integers(0, 1000, (4000, 1000))
    low, high = np.quantile(100 * gains[picks].mean(axis=1), (0.025, 0.975))
    assert found.low == pytest.approx(low, abs=0.15) and found.high == pytest.approx(high, abs=0.15)
    assert difference([dense], [ticket], LABELS) == found


def test_pairing_knows_networks_that_err_on_the_same_images() -> None:
    same = difference([predictions(850)], [predictions(850)], LABELS)
    assert same == (0.0, 0.0, 0.0)
    apart = difference([predictions(850)], [predictions(850, wrong_from=150)], LABELS)
    assert apart.points == 0 and apart.low < -1 < 1 < apart.high


def test_several_seeds_are_pooled_image_by_image() -> None:
    dense = [predictions(850), predictions(800)]
    ticket = [predictions(860), predictions(830)]
    found = difference(dense, ticket, LABELS)
    assert found.points == pytest.approx(2.0)
    swapped = difference(ticket, dense, LABELS)
    assert swapped.points == pytest.approx(-2.0) and swapped.high < 0


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(200):
        dense = (torch.rand(1000, generator=random) > 0.85).to(torch.uint8)
        ticket = (torch.rand(1000, generator=random) > 0.86).to(torch.uint8)
        found = difference([dense], [ticket], LABELS, resamples=1000)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_tolerance_includes_its_end_whatever_binary_makes_of_it() -> None:
    assert MATCH_TOLERANCE == 0.2
    points = 100 * (0.866 - 0.868)
    assert points < -0.2 and matched(points)
    assert matched(0.0) and matched(3.0) and not matched(-0.21)


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one each, are expected, got 1 and 2"):
        difference([predictions(1)], [predictions(1)] * 2, LABELS)
    with pytest.raises(ValueError, match="got 0 and 0"):
        difference([], [], LABELS)
    with pytest.raises(ValueError, match=r"shape \(1000,\) expected, got \(10,\)"):
        difference([predictions(1)], [predictions(1, count=10)], LABELS)
