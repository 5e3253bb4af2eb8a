"""Where data sets come from, and the proof that they are what they say.

The full sets are looked for in this order: the `data_dir` argument; the folder in SPARSEKERN_DATA;
`shared/data` beside the working directory or any folder above it; the folder of the Debian package
`dataset-fashion-mnist`; a download (extra "data"). A folder that was named, by argument or environment, is
the only one looked at. Whatever the source, the decompressed bytes must have the published content.
"""

from __future__ import annotations

import hashlib
import io
import os
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsekern.zoo.idx import parse_idx, read_gzip
from sparsekern.zoo.images import Data, Normalisation, make_data

FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
URLS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
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
# sha256 of the .gz files as published, checked before a download is kept.
PUBLISHED = {
    "mnist": {
        "train_images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train_labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "test_images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "test_labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion-mnist": {
        "train_images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train_labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "test_images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "test_labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}
NORMALISATION = {
    "mnist": Normalisation(mean=0.1307, std=0.3081),
    "fashion-mnist": Normalisation(mean=0.2860, std=0.3530),
}
DEBIAN_FOLDER = Path("/usr/share/datasets")


def fashion_mnist_6k(data_dir: str | Path | None = None) -> Data:
    """6,000 images of Fashion-MNIST that come with the package: 4,500 train, 500 validation, 1,000 test.

    `data_dir` is not looked at.
    """
    path = resources.files("sparsekern.zoo") / "data" / "fashion-mnist-6k.npz"
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        parts = {part: archive[part] for part in FILES}
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
    folder = locate(name, data_dir)
    paths = _download(name) if folder is None else {part: folder / file for part, file in FILES.items()}
    parts = {}
    for part, path in paths.items():
        raw = read_gzip(path)
        digest = hashlib.sha256(raw).hexdigest()
        parsed = parse_idx(raw, str(path), dimensions=3 if part.endswith("images") else 1)
        if digest != CONTENT[name][part]:
            raise ValueError(
                f"{path}: not the {part} of {name}: sha256 {CONTENT[name][part]} expected, got {digest}"
            )
        parts[part] = parsed
    return parts


def locate(name: str, data_dir: str | Path | None = None) -> Path | None:
    """The folder that holds the four files of a full set, or None if only a download can help.

    ValueError for a named folder (argument or SPARSEKERN_DATA) that is missing or lacks the files: nothing
    else is tried then. The files may lie in the folder itself or in its subfolder `name`.
    """
    named = data_dir or os.environ.get("SPARSEKERN_DATA")
    if named:
        for folder in (Path(named) / name, Path(named)):
            if _complete(folder):
                return folder
        found = "it has not all of them" if Path(named).is_dir() else "there is no such folder"
        raise ValueError(
            f"data folder {named}: {', '.join(FILES.values())} expected there or in {name}/; {found}"
        )
    here = Path.cwd()
    beside = [folder / "shared" / "data" / name for folder in (here, *here.parents)]
    return next((folder for folder in [*beside, DEBIAN_FOLDER / name] if _complete(folder)), None)


def _complete(folder: Path) -> bool:
    return all((folder / file).is_file() for file in FILES.values())


def _download(name: str) -> dict[str, Path]:
    """The four files in pooch's cache, fetched where they are missing; pooch checks the published hashes."""
    hint = f"{name} was not found on this machine: name its folder by --data-dir or SPARSEKERN_DATA"
    try:
        import pooch
    except ImportError as error:
        raise ValueError(f'{hint}, or let it be downloaded: pip install "sparsekern[data]"') from error
    cache = pooch.os_cache("sparsekern") / name
    try:
        return {
            part: Path(pooch.retrieve(URLS[name] + file, f"sha256:{PUBLISHED[name][part]}", file, cache))
            for part, file in FILES.items()
        }
    except OSError as error:
        raise ValueError(f"{hint}; the download from {URLS[name]} failed: {error}") from error
