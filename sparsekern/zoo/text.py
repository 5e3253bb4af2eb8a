"""Text as a data set: windows of symbols, and for each symbol the one that follows it.

Tiny Shakespeare (Karpathy 2015, char-rnn): 1,115,394 characters, 65 symbols, numbered in the order of their
code points. The first 1,003,854 are to train, the last 111,540 to test, as usual.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsekern.zoo import places
from sparsekern.zoo.images import Data

CONTENT = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # sha256
CONTEXT = 128
TRAIN, TEST = 1_003_854, 111_540


def tiny_shakespeare(data_dir: str | Path | None = None) -> Data:
    """Windows of CONTEXT symbols, x and y int64 (m, CONTEXT), y one symbol later than x; 65 classes.

    Training windows start at every symbol: they are a view that overlaps itself, so a copy of all of them
    takes CONTEXT times the memory. Validation and test windows stand side by side, and what does not fill one
    at the end is left out. Validation is the end of the training part, as long as the test part.
    """
    folder, files = places.find("tiny-shakespeare", data_dir)
    raw = (folder / files[0]).read_bytes()
    if (digest := hashlib.sha256(raw).hexdigest()) != CONTENT:
        raise ValueError(
            f"{folder / files[0]}: not the text of tiny-shakespeare: sha256 {CONTENT} expected, got {digest}"
        )
    alphabet, symbols = np.unique(np.frombuffer(raw, np.uint8), return_inverse=True)
    tokens = torch.from_numpy(symbols.astype(np.int64))
    parts = (tokens[: TRAIN - TEST], tokens[TRAIN - TEST : TRAIN], tokens[TRAIN:])
    return make_text("tiny-shakespeare", parts, CONTEXT, len(alphabet))


def make_text(name: str, parts: tuple[Tensor, Tensor, Tensor], context: int, classes: int) -> Data:
    """Data out of the symbols int64 (length,) to train, to validate and to test; see `tiny_shakespeare`."""
    windows = {}
    for part, symbols, step in zip(("train", "val", "test"), parts, (1, context, context), strict=True):
        windows[f"{part}_x"] = symbols[:-1].unfold(0, context, step)
        windows[f"{part}_y"] = symbols[1:].unfold(0, context, step)
    return Data(name=name, **windows, classes=classes)
