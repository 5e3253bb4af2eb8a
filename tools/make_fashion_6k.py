"""Make the embedded data set `fashion-mnist-6k` from the full Fashion-MNIST; the same input gives the same
bytes.

    python tools/make_fashion_6k.py [DATA_DIR]

It takes the first 500 training images and the first 100 test images of each of the ten classes, in file
order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sparsekern.zoo.sources import arrays

TRAIN_PER_CLASS = 500
TEST_PER_CLASS = 100
TARGET = Path(__file__).resolve().parents[1] / "sparsekern" / "zoo" / "data" / "fashion-mnist-6k.npz"


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """The indices, ascending, of the first `count` images of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)]))


def main() -> None:
    """Write the file and say how large it is."""
    full = arrays("fashion-mnist", sys.argv[1] if len(sys.argv) > 1 else None)
    chosen = {}
    for part, count in (("train", TRAIN_PER_CLASS), ("test", TEST_PER_CLASS)):
        indices = first_of_each(full[f"{part}_labels"], count)
        chosen[f"{part}_images"] = full[f"{part}_images"][indices]
        chosen[f"{part}_labels"] = full[f"{part}_labels"][indices]
    np.savez_compressed(TARGET, **chosen)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
