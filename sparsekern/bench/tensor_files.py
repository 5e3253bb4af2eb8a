"""Files that are whole or not there: safetensors with a JSON header in the metadata, and no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from sparsekern._version import __version__
from sparsekern.bench.atomic import write_atomically

FORMAT = 2
METADATA_KEY = "sparsekern"


def write(path: Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> None:
    """Write one file of `kind` atomically: at any moment, `path` is the old file or the whole new one.

    `header` is plain JSON without NaN; format, kind, code version, the order of the tensors, and a digest of
    all that are added to it. Tensors may share memory; the file holds each on its own.
    """
    own = {
        "format": FORMAT,
        "kind": kind,
        "code_version": __version__,
        # safetensors sorts what it stores, but order means something: the last layer is the output layer.
        "order": list(tensors),
    }
    whole = {**header, **own}
    try:
        text = json.dumps({**whole, "digest": digest(tensors, whole)}, sort_keys=True)
    except ValueError as error:
        raise ValueError(f"{path}: a header of plain JSON without NaN is expected: {error}") from error
    # Clones, because safetensors refuses tensors that share memory, and views that do not fill theirs.
    values = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    blob = safetensors.torch.save(values, {METADATA_KEY: text})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, blob)


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, in the order they were given to `write`, and the header of a file of `kind`.

    ValueError if it is missing, truncated, damaged, not ours, of another kind, or of an unknown format.
    """
    try:
        raw = path.read_bytes()
        tensors: dict[str, Tensor] = safetensors.torch.load(raw)
        end = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(json.loads(raw[8:end]).get("__metadata__", {})[METADATA_KEY])
        found = digest(tensors, header) if isinstance(header, dict) else None
    except OSError as error:
        raise ValueError(f"{path}: a sparsekern {kind} file is expected: {error}") from error
    except (SafetensorError, KeyError, TypeError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: a whole sparsekern {kind} file is expected, got {error!r}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header must be a JSON object, got {type(header).__name__}")
    if header.get("format") != FORMAT:
        raise ValueError(f"{path}: format {FORMAT} expected, got {header.get('format')!r}")
    if header.get("kind") != kind:
        raise ValueError(f"{path}: a {kind} file is expected, got kind {header.get('kind')!r}")
    if header.get("digest") != found:
        raise ValueError(f"{path}: damaged: header and tensors do not have the digest that the header names")
    order = field(header, "order", list, path)
    if not all(isinstance(name, str) for name in order) or sorted(order) != sorted(tensors):
        raise ValueError(f"{path}: the header names tensors {order}, the file holds {sorted(tensors)}")
    return {name: tensors[name] for name in order}, header


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> str:
    """sha256 over the header without its digest, and the names, dtypes, shapes and bytes of the tensors.

    ValueError for a header with NaN or infinity.
    """
    rest = {name: value for name, value in header.items() if name != "digest"}
    total = hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def field(header: Mapping[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...], path: Path) -> Any:
    """`header[name]`, which must be of type `kind`; ValueError naming the file and the field."""
    value = header.get(name)
    if not isinstance(value, kind):
        names = [one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,))]
        got = type(value).__name__ if name in header else "nothing"
        raise ValueError(f"{path}: header field {name!r} of type {' or '.join(names)} expected, got {got}")
    return value


def pack(mask: Tensor) -> Tensor:
    """A bool mask as uint8, eight elements a byte, first element in the highest bit; the shape is lost."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def unpack(packed: Tensor, shape: torch.Size, what: str) -> Tensor:
    """The bool mask of `shape`; ValueError, beginning with `what`, for another dtype or length, or bits set
    after the end."""
    count = shape.numel()
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 8),):
        raise ValueError(
            f"{what}: uint8 of shape ({-(-count // 8)},) expected for {count} weights, "
            f"got {packed.dtype} of shape {tuple(packed.shape)}"
        )
    bits = np.unpackbits(packed.numpy())
    if bits[count:].any():
        raise ValueError(f"{what}: zero bits expected after its {count} weights")
    return torch.from_numpy(bits[:count].astype(bool)).reshape(shape)
