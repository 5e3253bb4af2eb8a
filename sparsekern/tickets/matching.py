"""Is a ticket as good as its dense network? The tolerance, and the paired difference with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# A sparse network matches if its accuracy is at most this many points below the dense one's
# (Frankle et al. 2020, arXiv 1912.05671, section 2).
MATCH_TOLERANCE = 0.2


class Difference(NamedTuple):
    """Accuracy of the ticket less that of the dense network, in points, and its 95 % interval."""

    points: float
    low: float
    high: float


def qualifies(points: float) -> bool:
    """Whether a difference on validation images, in points, lets a round be the winner: it is not below zero.

    Without the tolerance of `matched`: the sparsest of many rounds is taken that pass, so luck on validation
    images is taken too, and a tolerance would be used up by it before the test images are asked.
    """
    return points >= -1e-9


def matched(points: float) -> bool:
    """Whether a difference in points (ticket less dense) is within MATCH_TOLERANCE."""
    # The slack is for 0.866 - 0.868, which is a little less than -0.002 in binary.
    return points >= -MATCH_TOLERANCE - 1e-9


def difference(
    dense_predictions: Sequence[Tensor],
    ticket_predictions: Sequence[Tensor],
    labels: Tensor,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """The paired difference in test accuracy with a 95 % percentile bootstrap interval over test images.

    The two sequences hold the predicted classes (m,) of one or more seeds, pair by pair; labels are (m,).
    Seeds are pooled: an image counts with its mean over them, so the interval speaks of new images and these
    seeds. ValueError if the two sequences are empty or differ in length, or predictions differ from the
    labels in shape.
    """
    if len(dense_predictions) != len(ticket_predictions) or not dense_predictions:
        raise ValueError(
            "as many dense as ticket predictions, at least one each, are expected, "
            f"got {len(dense_predictions)} and {len(ticket_predictions)}"
        )
    for predicted in (*dense_predictions, *ticket_predictions):
        if predicted.shape != labels.shape:
            raise ValueError(
                f"predictions of shape {tuple(labels.shape)} expected, got {tuple(predicted.shape)}"
            )
    gains = sum(
        (ticket == labels).to(torch.int64) - (dense == labels).to(torch.int64)
        for dense, ticket in zip(dense_predictions, ticket_predictions, strict=True)
    )
    # Drawing m images with replacement is drawing how often each distinct gain occurs.
    values, counts = np.unique(np.asarray(gains), return_counts=True)
    total = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(total, counts / total, size=resamples)
    scale = 100 / (total * len(dense_predictions))
    low, high = np.quantile(draws @ values * scale, (0.025, 0.975))
    return Difference(float(counts @ values * scale), float(low), float(high))
