"""Tuned launches on disk: one JSON file per device and Triton version, safe against parallel writers."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsekern.kernels.triton.launch import Key, Launch, Task, choose_from

VERSION = 1
"""Of the file's format, and of what the launches' words mean to the kernels; files of others are not read."""

SHIPPED = Path(__file__).parent / "tuned"
"""Tables that come with the package, ``<arch>.json``, in the same format."""

Table = dict[Key, Launch]


def folder() -> Path:
    """Where tables are kept: ``SPARSEKERN_CACHE``, or ``sparsekern`` in the user's cache folder."""
    if own := os.environ.get("SPARSEKERN_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sparsekern"


def path_of(device: str) -> Path:
    """The file of a device, such as "NVIDIA H100 80GB HBM3"."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower()
    return folder() / f"tuned-v{VERSION}" / f"{words}-triton-{_triton_version()}.json"


@functools.lru_cache(maxsize=64)
def load(device: str, arch: str) -> Table:
    """What is known for a device: the package's table for its architecture, and over it the device's own."""
    return read(SHIPPED / f"{arch}.json") | read(path_of(device))


@functools.lru_cache(maxsize=4096)
def choose(task: Task) -> Launch:
    """The launch for a task on this machine: the tuned one where there is one, else the default."""
    return choose_from(task, load(task.device, task.arch))


def read(path: Path) -> Table:
    """The table of one file; empty where there is none. What cannot be read is left out with a warning."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["version"] != VERSION:
            return {}
        return {_key(entry["task"]): Launch(**entry["launch"]) for entry in content["entries"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"tuned launches in {path} cannot be read and are not used: {error}", stacklevel=2)
        return {}


def save(device: str, found: Mapping[Key, Launch]) -> Path:
    """Adds launches to a device's file, in place of what it held for the same tasks; returns its path.

    The file is read, merged and replaced under a lock, so that writers at the same time lose nothing, and a
    reader sees either the old file or the new one.
    """
    path = path_of(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        write(path, read(path) | dict(found))
    load.cache_clear()
    choose.cache_clear()
    return path


def write(path: Path, table: Mapping[Key, Launch]) -> None:
    """Writes a table as one file, all of it or nothing."""
    entries = [{"task": list(key), "launch": asdict(launch)} for key, launch in sorted(table.items())]
    lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
    text = f'{{\n  "version": {VERSION},\n  "entries": [\n{lines}\n  ]\n}}\n'
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp's is the owner's alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _key(task: list[Any]) -> Key:
    kind, dtype, *sizes = task
    if len(sizes) != 6 or not all(type(size) is int for size in sizes):
        raise ValueError(f"expected a kind, a dtype and six sizes, got {task}")
    return (str(kind), str(dtype), *sizes)


def _triton_version() -> str:
    try:
        return ".".join(version("triton").split(".")[:2])
    except PackageNotFoundError:
        return "none"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # Triton runs on Linux alone, and so does this

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file lets go of the lock
