"""MNIST and Fashion-MNIST: read, proved to be what they say, split and normalised.

Whatever the place (`sparsekern.zoo.places`), the decompressed bytes must have the published content.
"""

from __future__ import annotations

import hashlib
import io
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsekern.zoo import places
from sparsekern.zoo.idx import parse_idx, read_gzip
from sparsekern.zoo.images import Data, Normalisation, make_data

PARTS = ("train_images", "train_labels", "test_images", "test_labels")
FILES = dict(zip(PARTS, places.IDX, strict=True))
# sha256 of the decompressed files: the same data is spread under several gzip headers.
CONTENT = {
    "mnist": {
        "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train_images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train_labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "test_images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "test_labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
NORMALISATION = {
    "mnist": Normalisation(mean=(0.1307,), std=(0.3081,)),
    "fashion-mnist": Normalisation(mean=(0.2860,), std=(0.3530,)),
}


def fashion_mnist_6k(data_dir: str | Path | None = None) -> Data:
    """6,000 images of Fashion-MNIST that come with the package: 4,500 train, 500 validation, 1,000 test.

    `data_dir` is not looked at.
    """
    path = resources.files("sparsekern.zoo") / "data" / "fashion-mnist-6k.npz"
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        parts = {part: archive[part] for part in PARTS}
    return make_data("fashion-mnist-6k", parts, 500, NORMALISATION["fashion-mnist"])


def fashion_mnist(data_dir: str | Path | None = None) -> Data:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 55,000 train, 5,000 validation, 10,000 test."""
    return make_data(
        "fashion-mnist", arrays("fashion-mnist", data_dir), 5_000, NORMALISATION["fashion-mnist"]
    )


def mnist(data_dir: str | Path | None = None) -> Data:
    """MNIST (LeCun et al. 1998): 55,000 train, 5,000 validation and 10,000 test images."""
    return make_data("mnist", arrays("mnist", data_dir), 5_000, NORMALISATION["mnist"])


def arrays(name: str, data_dir: str | Path | None = None) -> dict[str, NDArray[np.uint8]]:
    """The verified uint8 arrays of a full set: train_images, train_labels, test_images, test_labels.

    ValueError if the files cannot be found, read or downloaded, or are not the published data.
    """
    folder, _ = places.find(name, data_dir)
    parts = {}
    for part, file in FILES.items():
        path = folder / file
        raw = read_gzip(path)
        digest = hashlib.sha256(raw).hexdigest()
        parsed = parse_idx(raw, str(path), dimensions=3 if part.endswith("images") else 1)
        if digest != CONTENT[name][part]:
            raise ValueError(
                f"{path}: not the {part} of {name}: sha256 {CONTENT[name][part]} expected, got {digest}"
            )
        parts[part] = parsed
    return parts
