"""CIFAR-10, out of the official binary batches, their archive, or the same images as lossless WebP strips.

A record of a batch is a byte for the label and 3,072 for the image: 1,024 red, green and blue, row by row.
Whatever it was read from, the bytes of each batch must be the published ones.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsekern.zoo import places
from sparsekern.zoo.images import Data, Normalisation, make_data

# sha256 of the batches in the archive of https://www.cs.toronto.edu/~kriz/cifar.html
CONTENT = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
NORMALISATION = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
RECORD = 1 + 3 * 32 * 32


def cifar10(data_dir: str | Path | None = None) -> Data:
    """CIFAR-10 (Krizhevsky 2009): 45,000 train, 5,000 validation and 10,000 test images (3, 32, 32)."""
    return make_data("cifar10", arrays(data_dir), 5_000, NORMALISATION)


def arrays(data_dir: str | Path | None = None) -> dict[str, NDArray[np.uint8]]:
    """The verified uint8 arrays train_images, test_images (m, 3, 32, 32), train_labels, test_labels (m,).

    ValueError if the files cannot be found, read or downloaded, or are not the published data; and where
    the WebP strips are all there is and Pillow is missing.
    """
    folder, files = places.find("cifar10", data_dir)
    batches = READERS[files](folder)
    for name, raw in batches.items():
        if (digest := hashlib.sha256(raw).hexdigest()) != CONTENT[name]:
            raise ValueError(
                f"{folder}: not the {name} of cifar10: sha256 {CONTENT[name]} expected, got {digest}"
            )
    records = {name: np.frombuffer(raw, np.uint8).reshape(-1, RECORD) for name, raw in batches.items()}
    test = records.pop("test_batch.bin")
    parts = {"train": np.concatenate(list(records.values())), "test": test}
    images = {f"{part}_images": rows[:, 1:].reshape(-1, 3, 32, 32) for part, rows in parts.items()}
    return images | {f"{part}_labels": rows[:, 0] for part, rows in parts.items()}


def _read_batches(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in places.CIFAR_BATCHES}


def _read_archive(folder: Path) -> dict[str, bytes]:
    path = folder / places.CIFAR_ARCHIVE
    found = {}
    try:
        with tarfile.open(path) as archive:
            for name in places.CIFAR_BATCHES:
                file = archive.extractfile(f"cifar-10-batches-bin/{name}")
                if file is None:
                    raise ValueError(f"{path}: {name} is expected to be a file")
                found[name] = file.read()
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{path}: the whole archive of CIFAR-10 is expected: {error}") from error
    return found


def _read_strips(folder: Path) -> dict[str, bytes]:
    """The batches put together from WebP strips, images one below the other, and files of labels."""
    path = folder / places.CIFAR_STRIPS
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(f'{path}: to read it, pip install "sparsekern[data]"') from error
    records = []
    try:
        with zipfile.ZipFile(path) as archive:
            for part in ("train", "test"):
                labels = np.frombuffer(archive.read(f"{part}_labels.u8"), np.uint8)
                strips = sorted(name for name in archive.namelist() if name.startswith(f"{part}/"))
                pixels = [
                    np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in strips
                ]
                images = np.concatenate(pixels).reshape(len(labels), 32 * 32, 3).transpose(0, 2, 1)
                records.append(np.concatenate([labels[:, None], images.reshape(len(labels), -1)], axis=1))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: CIFAR-10 in whole WebP strips is expected: {error}") from error
    batches = np.array_split(np.concatenate(records), len(places.CIFAR_BATCHES))
    return {name: rows.tobytes() for name, rows in zip(places.CIFAR_BATCHES, batches, strict=True)}


READERS: dict[tuple[str, ...], Callable[[Path], dict[str, bytes]]] = {
    places.CIFAR_BATCHES: _read_batches,
    (places.CIFAR_ARCHIVE,): _read_archive,
    (places.CIFAR_STRIPS,): _read_strips,
}
