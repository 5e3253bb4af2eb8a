"""Data sets: the embedded one, the format, the places, and that nothing false is taken for the real thing."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsekern import zoo
from sparsekern.zoo import places, sources
from sparsekern.zoo.idx import parse_idx, read_gzip
from sparsekern.zoo.images import split_off_validation


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def tiny_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four well-formed files whose content is declared to be the published one."""
    random = np.random.default_rng(0)
    contents = {}
    for part, file in sources.FILES.items():
        shape = (6, 28, 28) if part.endswith("images") else (6,)
        raw = idx(random.integers(0, 10, shape, dtype=np.uint8))
        contents[part] = hashlib.sha256(raw).hexdigest()
        (tmp_path / file).write_bytes(gzip.compress(raw))
    monkeypatch.setitem(sources.CONTENT, "mnist", contents)
    return tmp_path


def test_the_embedded_set_has_what_it_says() -> None:
    data = zoo.dataset("fashion-mnist-6k")
    parts = {
        "train": (data.train_x, data.train_y),
        "val": (data.val_x, data.val_y),
        "test": (data.test_x, data.test_y),
    }
    assert {name: tuple(x.shape) for name, (x, _) in parts.items()} == {
        "train": (4500, 1, 28, 28),
        "val": (500, 1, 28, 28),
        "test": (1000, 1, 28, 28),
    }
    both = torch.bincount(data.train_y) + torch.bincount(data.val_y)
    assert (
        both.tolist() == [500] * data.classes and torch.bincount(data.test_y).tolist() == [100] * data.classes
    )
    assert data.train_x.dtype == torch.float32 and data.train_y.dtype == torch.int64
    assert float(data.train_x.mean()) == pytest.approx(0, abs=0.02)
    assert float(data.train_x.std()) == pytest.approx(1, abs=0.02)
    pixels = data.train_x * 0.3530 + 0.2860
    assert float(pixels.min()) == pytest.approx(0, abs=1e-6) and float(pixels.max()) == pytest.approx(1)


def test_the_embedded_set_is_the_first_images_of_each_class_of_the_full_one() -> None:
    full_folder = places.locate("fashion-mnist")
    if full_folder is None:
        pytest.skip("the full Fashion-MNIST is not on this machine")
    data = zoo.dataset("fashion-mnist-6k")
    full = sources.arrays("fashion-mnist", full_folder)
    first = np.sort(
        np.concatenate([np.flatnonzero(full["test_labels"] == label)[:100] for label in range(10)])
    )
    assert data.test_y.tolist() == full["test_labels"][first].tolist()
    pixels = (data.test_x * 0.3530 + 0.2860).mul(255).round().to(torch.uint8).squeeze(1)
    assert np.array_equal(pixels.numpy(), full["test_images"][first])


def test_validation_is_one_fixed_choice_and_disjoint() -> None:
    train, val = split_off_validation(5000, 500)
    assert len(train) == 4500 and len(val) == 500 and set(train) | set(val) == set(range(5000))
    # The very images, so that a change of the split cannot go unseen.
    assert val[:5].tolist() == FIRST_VALIDATION and np.all(np.diff(val) > 0)


FIRST_VALIDATION = [12, 29, 30, 31, 39]


def test_a_full_set_is_read_split_and_normalised(tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sources, "make_data", lambda name, parts, validation, norm: (name, parts, validation, norm)
    )
    name, parts, validation, norm = zoo.dataset("mnist", tiny_mnist)  # type: ignore[misc]
    assert (name, validation, norm.mean, norm.std) == ("mnist", 5_000, (0.1307,), (0.3081,))
    assert parts["train_images"].shape == (6, 28, 28) and parts["test_labels"].shape == (6,)


def test_other_gzip_headers_are_the_same_data(tiny_mnist: Path) -> None:
    path = tiny_mnist / sources.FILES["test_labels"]
    expected = sources.arrays("mnist", tiny_mnist)["test_labels"]
    path.write_bytes(gzip.compress(read_gzip(path), compresslevel=1, mtime=12345))
    assert np.array_equal(sources.arrays("mnist", tiny_mnist)["test_labels"], expected)


def test_places_are_tried_in_order(tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSEKERN_DATA", raising=False)
    project = tmp_path / "work" / "project" / "deep"
    project.mkdir(parents=True)
    monkeypatch.chdir(project)
    monkeypatch.setattr(places, "DEBIAN_FOLDER", tmp_path / "none")
    assert places.locate("mnist") is None
    folders = [
        tmp_path / "debian" / "mnist",
        tmp_path / "work" / "shared" / "data" / "mnist",
        tmp_path / "env" / "mnist",
    ]
    for place in folders:
        place.mkdir(parents=True)
        for file in sources.FILES.values():
            (place / file).write_bytes((tiny_mnist / file).read_bytes())
    monkeypatch.setattr(places, "DEBIAN_FOLDER", tmp_path / "debian")
    assert places.locate("fashion-mnist") is None
    assert places.locate("mnist") == folders[1]
    monkeypatch.setenv("SPARSEKERN_DATA", str(tmp_path / "env"))
    assert places.locate("mnist") == folders[2]
    assert places.locate("mnist", tiny_mnist) == tiny_mnist
    monkeypatch.delenv("SPARSEKERN_DATA")
    (folders[1] / sources.FILES["train_labels"]).unlink()
    assert places.locate("mnist") == folders[0]


def test_a_named_folder_is_the_only_one_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"data folder .*gone: train-images.* expected .*no such folder"):
        zoo.dataset("mnist", tmp_path / "gone")
    with pytest.raises(ValueError, match="it has not all of them"):
        zoo.dataset("mnist", tmp_path)
    monkeypatch.setenv("SPARSEKERN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"nowhere.*no such folder"):
        zoo.dataset("fashion-mnist")
    assert zoo.dataset("fashion-mnist-6k").classes == 10  # It needs no folder.


def test_changed_foreign_and_truncated_files_are_refused(tiny_mnist: Path) -> None:
    images = tiny_mnist / sources.FILES["train_images"]
    packed, raw = images.read_bytes(), read_gzip(images)
    for content, message in [
        (gzip.compress(raw[:-1] + bytes([raw[-1] ^ 1])), "not the train_images of mnist: sha256"),
        (gzip.compress(raw[:-1]), r"4720 bytes expected for shape \(6, 28, 28\), got 4719"),
        (gzip.compress(raw[:9]), "header of 16 bytes is expected, got 9"),
        (gzip.compress(bytes([0, 0, 8, 1]) + raw[4:]), "magic 00000803 .* expected, got 00000801"),
        (packed[: len(packed) // 2], "complete gzip file is expected"),
        (b"<html>not found</html>", "complete gzip file is expected"),
    ]:
        images.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            zoo.dataset("mnist", tiny_mnist)


def test_sizes_that_would_overflow_are_only_a_wrong_length() -> None:
    with pytest.raises(ValueError, match="bytes expected for shape"):
        parse_idx(bytes([0, 0, 8, 3]) + b"\xff" * 12, "huge", 3)


def test_without_pooch_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "locate", lambda name, data_dir: None)
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(ValueError, match=r'--data-dir or SPARSEKERN_DATA.*pip install "sparsekern\[data\]"'):
        zoo.dataset("mnist")


def test_a_download_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pooch = pytest.importorskip("pooch")

    def refuse(url: str, known_hash: str, fname: str, path: Path) -> str:
        assert url == places.PUBLISHED["mnist"].url + fname and known_hash.startswith("sha256:")
        raise ConnectionError("no network")

    monkeypatch.setattr(places, "locate", lambda name, data_dir: None)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(ValueError, match=r"download from https://.* failed: no network"):
        zoo.dataset("mnist")


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'cifar': expected one of \['fashion-mnist-6k',"):
        zoo.dataset("cifar")
