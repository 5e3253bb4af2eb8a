"""Where the files of the full data sets are looked for, and where they are downloaded from.

They are looked for in this order: the `data_dir` argument; the folder in SPARSEKERN_DATA; `shared/data`
beside the working directory or any folder above it; the folder of Debian's data set packages; a download
(extra "data"). A folder that was named, by argument or environment, is the only one looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_STRIPS = "cifar10_lossless_webp.zip"
CIFAR_BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
DEBIAN_FOLDER = Path("/usr/share/datasets")


@dataclass(frozen=True)
class Published:
    """A data set as it is spread.

    layouts: groups of files, of which any whole one will do. folders: where they may lie below a folder of
    data sets, besides in it. url: the place of the files to download; sha256: what they are called there
    and the digest of each, checked before a download is kept.
    """

    layouts: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...]
    url: str
    sha256: Mapping[str, str]

    def layout_in(self, folder: Path) -> tuple[str, ...] | None:
        """The first group of files that is whole in `folder`; None if none is."""
        whole = (files for files in self.layouts if all((folder / file).is_file() for file in files))
        return next(whole, None)


PUBLISHED = {
    "mnist": Published(
        layouts=(IDX,),
        folders=("mnist",),
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        sha256=dict(
            zip(
                IDX,
                (
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
                strict=True,
            )
        ),
    ),
    "fashion-mnist": Published(
        layouts=(IDX,),
        folders=("fashion-mnist",),
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        sha256=dict(
            zip(
                IDX,
                (
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                ),
                strict=True,
            )
        ),
    ),
    "cifar10": Published(
        layouts=(CIFAR_BATCHES, (CIFAR_ARCHIVE,), (CIFAR_STRIPS,)),
        folders=("cifar10", "cifar-10-batches-bin"),
        url="https://www.cs.toronto.edu/~kriz/",
        sha256={CIFAR_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
    "tiny-shakespeare": Published(
        layouts=(("tinyshakespeare.txt",), ("input.txt",)),
        folders=("tiny-shakespeare", "text"),
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
        sha256={"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
    ),
}
"""name -> what is looked for. What comes with the package is not here."""


def locate(name: str, data_dir: str | Path | None = None) -> Path | None:
    """The folder that holds the files of a full set, or None if only a download can help.

    ValueError for a named folder (argument or SPARSEKERN_DATA) that is missing or lacks the files: nothing
    else is tried then. The files may lie in the folder itself or in one of the set's own `folders` in it.
    """
    published = PUBLISHED[name]

    def whole_below(parent: Path, itself: bool) -> Path | None:
        places = [parent / folder for folder in published.folders] + [parent] * itself
        return next((place for place in places if published.layout_in(place)), None)

    named = data_dir or os.environ.get("SPARSEKERN_DATA")
    if named:
        if found := whole_below(Path(named), itself=True):
            return found
        files = ", or ".join(", ".join(layout) for layout in published.layouts)
        missing = "it has not all of them" if Path(named).is_dir() else "there is no such folder"
        raise ValueError(f"data folder {named}: {files} expected there or in {name}/; {missing}")
    here = Path.cwd()
    parents = [*(folder / "shared" / "data" for folder in (here, *here.parents)), DEBIAN_FOLDER]
    return next((found for parent in parents if (found := whole_below(parent, itself=False))), None)


def find(name: str, data_dir: str | Path | None = None) -> tuple[Path, tuple[str, ...]]:
    """(folder, files) of a full set, downloaded where it is not on this machine.

    ValueError if it is not found where it must be, or cannot be downloaded.
    """
    folder = locate(name, data_dir) or _download(name)
    files = PUBLISHED[name].layout_in(folder)
    assert files is not None
    return folder, files


def _download(name: str) -> Path:
    """The folder in pooch's cache, with what was missing fetched; pooch checks the published hashes."""
    published = PUBLISHED[name]
    hint = f"{name} was not found on this machine: name its folder by --data-dir or SPARSEKERN_DATA"
    try:
        import pooch
    except ImportError as error:
        raise ValueError(f'{hint}, or let it be downloaded: pip install "sparsekern[data]"') from error
    cache = Path(pooch.os_cache("sparsekern")) / name
    try:
        for file, digest in published.sha256.items():
            pooch.retrieve(published.url + file, f"sha256:{digest}", file, cache)
    except OSError as error:
        raise ValueError(f"{hint}; the download from {published.url} failed: {error}") from error
    return cache
