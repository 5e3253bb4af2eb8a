"""The idx format of MNIST: two zero bytes, element type, number of dimensions, big-endian sizes, elements."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UINT8 = 0x08


def read_gzip(path: Path) -> bytes:
    """The decompressed bytes of a .gz file; ValueError if it is missing, truncated or no gzip file."""
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: a complete gzip file is expected: {error}") from error


def parse_idx(raw: bytes, name: str, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array in the bytes of an idx file; `name` is for the errors.

    ValueError for another magic, element type or number of dimensions, and for too few or too many bytes.
    """
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, UINT8, dimensions])
    if raw[:4] != magic:
        raise ValueError(
            f"{name}: idx magic {magic.hex()} (uint8, {dimensions}-d) expected, got {raw[:4].hex()}"
        )
    if len(raw) < header:
        raise ValueError(f"{name}: an idx header of {header} bytes is expected, got {len(raw)} bytes")
    shape = tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4))
    expected = header + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise ValueError(f"{name}: {expected} bytes expected for shape {shape}, got {len(raw)}")
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)
