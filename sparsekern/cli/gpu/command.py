"""`sparsekern gpu`: one part in this process, or all of them, each in its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from sparsekern.cli.gpu import results
from sparsekern.cli.gpu.options import PARTS
from sparsekern.cli.gpu.processes import run_limited
from sparsekern.cli.gpu.setting import TINY, Entry, Setting, in_words, make_setting, raised
from sparsekern.cli.progress import say

GRACE_S = 20.0  # for starting, and for what is under way when a part's time is up


class Part(Protocol):
    """A module of this package that PARTS names."""

    def run(self, setting: Setting) -> Iterator[Entry]:
        """What it finds, as soon as it is known."""

    def lines(self, entries: Sequence[Entry]) -> Iterator[str]:
        """The table of it."""


def gpu(options: argparse.Namespace) -> int:
    """The command. ValueError where there is no GPU, for a folder that cannot be written, and, once all is
    printed, where something of ours went wrong."""
    if options.seconds is not None and options.part is None:
        raise ValueError("--seconds is for one --part; all of them have times of their own")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.tiny:
        os.environ[TINY] = "1"
    make_setting(0, options.out)  # that there is a GPU is known before anything is started
    if options.part is None:
        for name in PARTS:
            _in_its_own_process(name, options.out)
    else:
        _run(options.part, options.out, options.seconds or PARTS[options.part])
    parts = results.read(options.out).get("parts", {})
    wrong = []
    for name in PARTS if options.part is None else [options.part]:
        for line in _report(name, parts.get(name, {})):
            say(line, sys.stdout)
        wrong += [f"{name}: {error}" for error in _errors(parts.get(name, {}))]
    say(f"\nall figures: {results.path_in(options.out)}", sys.stdout)
    if wrong:
        raise ValueError(f"{len(wrong)} things went wrong, first {wrong[0]}")
    return 0


def _run(name: str, out: Path, budget_s: float) -> None:
    part = load(name)
    setting = make_setting(budget_s, out)
    about, start = results.describe_run(), perf_counter()
    entries: list[Entry] = []

    def write(**more: object) -> None:
        results.write(out, name, entries, **about, seconds=round(perf_counter() - start, 1), **more)

    try:
        for entry in part.run(setting):
            entries.append(entry)
            write(ended=False)
    except raised() as error:
        traceback.print_exc()
        entries.append({"error": in_words(error)})
    write(ended=True, after=results.read_smi())


def load(name: str) -> Part:
    """The module of a part."""
    part: Any = import_module(f"sparsekern.cli.gpu.{name}")
    found: Part = part
    return found


def _in_its_own_process(name: str, out: Path) -> None:
    """A crash of the device, or a hang, ends one part and not all. What it found until then is kept."""
    start, limit = perf_counter(), PARTS[name] + GRACE_S
    results.write(out, name, [], ended=False)
    command = [sys.executable, "-m", "sparsekern", "gpu", "--part", name, "--out", str(out)]
    code = run_limited(command, limit, stdout=subprocess.DEVNULL)
    found = results.read(out)["parts"][name]
    if not found.pop("ended"):
        why = f"did not end within {limit:.0f} s" if code is None else f"ended with exit code {code}"
        entries = [*found.pop("entries"), {"error": why}]
        results.write(out, name, entries, **(found | {"ended": False}))
    say(f"{name}: ended after {perf_counter() - start:.0f} s", sys.stderr)


def _report(name: str, found: dict[str, Any]) -> Iterator[str]:
    ended = "" if found.get("ended") else ", not ended"
    yield f"\n## {name} ({found.get('seconds', 0):.0f} s{ended})\n"
    entries = found.get("entries", [])
    yield from load(name).lines([entry for entry in entries if set(entry) != {"error"}])
    yield from (f"- {entry['error']}" for entry in entries if set(entry) == {"error"})


def _errors(found: dict[str, Any]) -> list[str]:
    return [entry["error"] for entry in found.get("entries", []) if "error" in entry]
