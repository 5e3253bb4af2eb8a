"""CIFAR-10: three ways to store it, one content; and the augmentation that goes with it."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsekern import zoo
from sparsekern.zoo import cifar, places
from sparsekern.zoo.augment import AUGMENTATIONS, augment
from sparsekern.zoo.images import Normalisation, make_data

IMAGES = 4  # in each of the tiny batches


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Six tiny batches whose content is declared to be the published one."""
    random = np.random.default_rng(0)
    made = {}
    for name in places.CIFAR_BATCHES:
        labels = random.integers(0, 10, (IMAGES, 1), dtype=np.uint8)
        pixels = random.integers(0, 256, (IMAGES, 3072), dtype=np.uint8)
        made[name] = np.concatenate([labels, pixels], axis=1).tobytes()
    monkeypatch.setattr(
        cifar, "CONTENT", {name: hashlib.sha256(raw).hexdigest() for name, raw in made.items()}
    )
    return made


def as_batches(folder: Path, batches: dict[str, bytes]) -> None:
    for name, raw in batches.items():
        (folder / name).write_bytes(raw)


def as_archive(folder: Path, batches: dict[str, bytes]) -> None:
    with tarfile.open(folder / places.CIFAR_ARCHIVE, "w:gz") as archive:
        for name, raw in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))


def as_strips(folder: Path, batches: dict[str, bytes]) -> None:
    """Strips of three images, in the order of the batches."""
    image = pytest.importorskip("PIL.Image")
    records = np.frombuffer(b"".join(batches.values()), np.uint8).reshape(-1, cifar.RECORD)
    with zipfile.ZipFile(folder / places.CIFAR_STRIPS, "w") as archive:
        for part, rows in (("train", records[: 5 * IMAGES]), ("test", records[5 * IMAGES :])):
            archive.writestr(f"{part}_labels.u8", rows[:, 0].tobytes())
            pixels = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for at in range(0, len(rows), 3):
                file = io.BytesIO()
                strip = np.ascontiguousarray(pixels[at : at + 3]).reshape(-1, 32, 3)
                image.fromarray(strip).save(file, "WEBP", lossless=True, exact=True)
                archive.writestr(f"{part}/{at:05}.webp", file.getvalue())


WAYS = (as_batches, as_archive, as_strips)


@pytest.mark.parametrize("store", WAYS)
def test_every_way_to_store_it_gives_the_same_images(
    store: Callable[[Path, dict[str, bytes]], None], tmp_path: Path, batches: dict[str, bytes]
) -> None:
    store(tmp_path, batches)
    parts = cifar.arrays(tmp_path)
    first = np.frombuffer(batches["data_batch_1.bin"], np.uint8)
    assert parts["train_labels"][0] == first[0] and parts["train_labels"].shape == (5 * IMAGES,)
    assert parts["train_images"].shape == (5 * IMAGES, 3, 32, 32)
    # Red comes first, then green, then blue, each row by row.
    assert parts["train_images"][0, 1, 2, 3] == first[1 + 1024 + 2 * 32 + 3]
    last = np.frombuffer(batches["test_batch.bin"], np.uint8)[-3072:]
    assert np.array_equal(parts["test_images"][-1].ravel(), last)


@pytest.mark.parametrize("store", WAYS)
def test_another_pixel_is_refused(
    store: Callable[[Path, dict[str, bytes]], None], tmp_path: Path, batches: dict[str, bytes]
) -> None:
    raw = batches["data_batch_3.bin"]
    store(tmp_path, batches | {"data_batch_3.bin": raw[:-1] + bytes([raw[-1] ^ 1])})
    with pytest.raises(ValueError, match=r"not the data_batch_3.bin of cifar10: sha256 .* expected, got"):
        zoo.dataset("cifar10", tmp_path)


@pytest.mark.parametrize("store", [as_archive, as_strips])
def test_half_a_file_is_refused(
    store: Callable[[Path, dict[str, bytes]], None], tmp_path: Path, batches: dict[str, bytes]
) -> None:
    store(tmp_path, batches)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{path.name}: .* expected"):
        zoo.dataset("cifar10", tmp_path)


def test_an_archive_without_a_batch_is_refused(tmp_path: Path, batches: dict[str, bytes]) -> None:
    del batches["test_batch.bin"]
    as_archive(tmp_path, batches)
    with pytest.raises(ValueError, match=r"the whole archive of CIFAR-10 is expected: .*test_batch.bin"):
        zoo.dataset("cifar10", tmp_path)


def test_a_folder_without_it_names_every_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data_batch_1.bin, .*, or cifar-10-binary.tar.gz, or .*webp.zip"):
        zoo.dataset("cifar10", tmp_path)


def test_without_pillow_the_strips_name_the_extra(
    tmp_path: Path, batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_strips(tmp_path, batches)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ValueError, match=r'pip install "sparsekern\[data\]"'):
        zoo.dataset("cifar10", tmp_path)


def test_every_channel_has_its_own_normalisation() -> None:
    pixels = np.zeros((2, 3, 4, 4), np.uint8)
    pixels[:, 1] = 255
    labels = np.array([0, 1], np.uint8)
    parts = {"train_images": pixels, "test_images": pixels, "train_labels": labels, "test_labels": labels}
    data = make_data("small", parts, 1, Normalisation((0.5, 0.25, 0.1), (1.0, 0.5, 0.2)))
    assert data.train_x.shape == data.val_x.shape == (1, 3, 4, 4)
    torch.testing.assert_close(data.test_x[0, :, 0, 0], torch.tensor([-0.5, 1.5, -0.5]))


@pytest.mark.slow
def test_the_real_one_is_split_and_normalised() -> None:
    if places.locate("cifar10") is None:
        pytest.skip("CIFAR-10 is not on this machine")
    data = zoo.dataset("cifar10")
    assert [len(part) for part in (data.train_x, data.val_x, data.test_x)] == [45_000, 5_000, 10_000]
    assert torch.bincount(data.test_y).tolist() == [1000] * 10
    assert data.train_x.mean((0, 2, 3)).abs().max() < 0.01
    torch.testing.assert_close(data.train_x.std((0, 2, 3)), torch.ones(3), atol=0.01, rtol=0)


# ---- augmentation


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_image_is_a_crop_of_itself_or_its_mirror() -> None:
    x = torch.randn(100, 3, 8, 6)
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    seen = set()
    for before, after in zip(padded, augment("flip-crop", x, draw()), strict=True):
        found = [
            (top, left, mirrored)
            for top in range(9)
            for left in range(9)
            for mirrored in (False, True)
            if torch.equal(after.flip(2) if mirrored else after, before[:, top : top + 8, left : left + 6])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 60  # each image has its own draw
    for index, values in enumerate(zip(*seen, strict=True)):
        assert set(values) == ({False, True} if index == 2 else set(range(9)))


def test_the_generator_decides_and_nothing_else_is_touched() -> None:
    x = torch.randn(8, 3, 8, 8)
    kept, state = x.clone(), torch.get_rng_state()
    first, again, other = (augment("flip-crop", x, draw(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)
    generator = draw(1)
    assert augment("none", x, generator) is x and torch.equal(generator.get_state(), draw(1).get_state())


def test_an_unknown_augmentation_is_refused() -> None:
    assert list(AUGMENTATIONS) == ["none", "flip-crop"]
    with pytest.raises(ValueError, match=r"unknown augmentation 'cutout': expected one of \['none',"):
        augment("cutout", torch.zeros(1, 3, 4, 4), draw())
