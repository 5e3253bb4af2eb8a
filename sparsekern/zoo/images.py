"""One small interface for every data set, tensors in three parts; and how images become them."""

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
    """Images float32 (m, channels, height, width), normalised, and labels int64 (m,); or windows of text,
    symbols int64 (m, context), and as labels the symbols that follow them, int64 (m, context).

    Labels lie in 0 … classes - 1. The validation part is held out of the training files; nothing of the
    test part is ever chosen by.
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
    """Mean and standard deviation of the training pixels for each channel, with pixels in 0 … 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def split_off_validation(count: int, validation: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(train, validation) indices, both ascending: one seeded choice that is the same on every machine."""
    # RandomState and not default_rng: its stream is frozen, so the split outlives numpy versions.
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.RandomState(SPLIT_SEED).permutation(count)[:validation]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def make_data(
    name: str, arrays: Mapping[str, NDArray[np.uint8]], validation: int, normalisation: Normalisation
) -> Data:
    """Data from uint8 arrays train_images, test_images and train_labels, test_labels (m,).

    Images are (m, channels, height, width), or without channels (m, height, width). `validation` of them
    are split off the training part.
    """
    mean, std = (torch.tensor(figures)[:, None, None] for figures in (normalisation.mean, normalisation.std))

    def images(pixels: NDArray[np.uint8]) -> Tensor:
        scaled = torch.tensor(pixels, dtype=torch.float32).div_(255)
        return scaled.reshape(len(pixels), -1, *pixels.shape[-2:]).sub_(mean).div_(std)

    def labels(values: NDArray[np.uint8]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

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
