"""Text as a data set: windows, and what follows each symbol."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsekern import zoo
from sparsekern.zoo import places, text
from sparsekern.zoo.text import make_text


def test_windows_are_followed_by_their_targets() -> None:
    parts = (torch.arange(10), torch.arange(100, 110), torch.arange(200, 208))
    data = make_text("count", parts, 4, 300)
    assert data.train_x.tolist() == [list(range(at, at + 4)) for at in range(6)]
    assert data.val_x.tolist() == [[100, 101, 102, 103], [104, 105, 106, 107]]
    assert data.test_x.tolist() == [[200, 201, 202, 203]]  # the rest does not fill a window
    for part in ("train", "val", "test"):
        x, y = getattr(data, f"{part}_x"), getattr(data, f"{part}_y")
        assert x.dtype == y.dtype == torch.int64 and torch.equal(x + 1, y)


@pytest.mark.parametrize("file", ["tinyshakespeare.txt", "input.txt"])
def test_it_is_read_split_and_numbered(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bytes(np.random.default_rng(0).choice([10, 65, 97], 1000).astype(np.uint8))
    (tmp_path / file).write_bytes(raw)
    monkeypatch.setattr(text, "CONTENT", hashlib.sha256(raw).hexdigest())
    monkeypatch.setattr(text, "TRAIN", 800)
    monkeypatch.setattr(text, "TEST", 200)
    data = zoo.dataset("tiny-shakespeare", tmp_path)
    symbols = torch.tensor([[10, 65, 97].index(byte) for byte in raw])
    assert data.classes == 3 and data.train_x.shape == (600 - 128, 128)
    assert torch.equal(data.train_x[7], symbols[7:135]) and torch.equal(data.train_y[-1], symbols[472:600])
    assert torch.equal(data.val_x[0], symbols[600:728]) and torch.equal(data.test_x[0], symbols[800:928])


def test_another_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("To be, or not to be")
    with pytest.raises(ValueError, match=r"input.txt: not the text of tiny-shakespeare: sha256 86c4"):
        zoo.dataset("tiny-shakespeare", tmp_path)


def test_the_real_one_has_the_usual_sizes() -> None:
    if places.locate("tiny-shakespeare") is None:
        pytest.skip("Tiny Shakespeare is not on this machine")
    data = zoo.dataset("tiny-shakespeare")
    assert data.classes == 65 and int(data.train_x[0].max()) < 65
    # 1,003,854 to train and 111,540 to test, as many of the former to validate
    assert [tuple(x.shape) for x in (data.train_x, data.val_x, data.test_x)] == [
        (1_003_854 - 111_540 - 128, 128),
        (871, 128),
        (871, 128),
    ]
