"""One small interface for every image data set: normalised tensors in three parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPLIT_SEED = 0


@dataclass(frozen=True)
class Data:
    """Images float32 (m, 1, 28, 28), normalised; labels int64 (m,) in 0 … classes - 1.

    The validation part is held out of the training files; nothing of the test part is ever chosen by.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the training pixels, with pixels in 0 … 1."""

    mean: float
    std: float


def split_off_validation(count: int, validation: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(train, validation) indices, both ascending: one seeded choice that is the same on every machine."""
    # RandomState and not default_rng: its stream is frozen, so the split outlives numpy versions.
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.RandomState(SPLIT_SEED).permutation(count)[:validation]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def make_data(
    name: str, arrays: Mapping[str, NDArray[np.uint8]], validation: int, normalisation: Normalisation
) -> Data:
    """Data from uint8 arrays train_images, test_images (m, 28, 28) and train_labels, test_labels (m,).

    `validation` images are split off the training part.
    """

    def images(pixels: NDArray[np.uint8]) -> Tensor:
        scaled = torch.from_numpy(pixels).unsqueeze(1).to(torch.float32).div_(255)
        return scaled.sub_(normalisation.mean).div_(normalisation.std)

    def labels(values: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(values).to(torch.int64)

    train, val = split_off_validation(len(arrays["train_labels"]), validation)
    return Data(
        name=name,
        train_x=images(arrays["train_images"][train]),
        train_y=labels(arrays["train_labels"][train]),
        val_x=images(arrays["train_images"][val]),
        val_y=labels(arrays["train_labels"][val]),
        test_x=images(arrays["test_images"]),
        test_y=labels(arrays["test_labels"]),
        classes=10,
    )
