"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LEFTOVERS = ".*.tmp"
"""Pattern of the names of what killed writes leave in a folder."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content` in one step, flushed to disk; at any moment it is old or new.

    A write that fails leaves nothing behind; one that is killed may leave one
    of LEFTOVERS. Several writers of
    one path do not disturb each other: the last one wins.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's own mode hides the file from everybody else
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself lasts only once the folder has reached the disk.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
