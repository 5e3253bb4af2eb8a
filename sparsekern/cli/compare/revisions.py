"""A git revision, exported and built in a folder of its own; built once, found again by its commit."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Revision:
    """A commit of the repository in the working directory, by the name it was asked for."""

    name: str
    commit: str

    @classmethod
    def find(cls, name: str) -> Revision:
        """ValueError where there is no git, no repository, or no such revision."""
        asked = f"{name}^{{commit}}"
        done = _git("rev-parse", "--verify", "--quiet", "--end-of-options", asked)
        if done.returncode != 0:
            raise ValueError(
                f"{name}: neither a JSON file nor a git revision of the repository in {Path.cwd()}"
            )
        return cls(name, done.stdout.decode().strip())

    def __str__(self) -> str:
        return self.name if self.commit.startswith(self.name) else f"{self.name} ({self.commit[:10]})"


def default_cache() -> Path:
    """Where builds are kept: $XDG_CACHE_HOME/sparsekern/compare."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsekern" / "compare"


def source(revision: Revision, folder: Path) -> Path:
    """Its files, written into `folder`. ValueError if it is no sparsekern."""
    done = _git("archive", "--format=tar", revision.commit)
    if done.returncode != 0:
        raise ValueError(f"{revision.name}: {_last_line(done.stderr.decode())}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    if not (folder / "sparsekern" / "__init__.py").exists():
        raise ValueError(f"{revision.name}: holds no sparsekern")
    return folder


def built(revision: Revision, cache: Path) -> Path:
    """The folder to import it from: installed for this Python, beside it and nothing else; torch and numpy
    are those of this environment. ValueError with the compiler's complaint where it does not build.
    """
    target = cache / f"{revision.commit}-{sysconfig.get_config_var('SOABI')}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    # Beside its place, and moved there when it is whole: a killed build is none.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as made:
        tree = source(revision, Path(made) / "source")
        ready = Path(made) / "site"
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
        command += ["--disable-pip-version-check", "--target", str(ready), str(tree)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            log = cache / f"{revision.commit}.log"
            log.write_text(done.stdout + done.stderr)
            raise ValueError(
                f"{revision.name} does not build: {complaint(log.read_text())} (all of it: {log})"
            )
        shutil.move(ready, target)
    return target


def complaint(log: str) -> str:
    """The line of a build's log that says why it failed: the first with an error, else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line and "subprocess-exited-with-error" not in line]
    return (errors or lines or ["it said nothing"])[0 if errors else -1]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["git said nothing"])[-1]


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise ValueError("there is no git here, which revisions need") from None
