"""The processes of a comparison: a server for each side, and its forks, which take turns."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORKER = Path(__file__).with_name("worker.py")
TURNS, SAMPLES, SAMPLE_US = 8, 5, 300.0
"""Turns of each case in a round, samples in a turn, and how long a sample should take at least."""

_BASE, _HEAD = 0, 1
_ORDERS = {"base first": (_BASE, _HEAD, _HEAD, _BASE), "head first": (_HEAD, _BASE, _BASE, _HEAD)}


class Sitting:
    """Two servers with their layers, started together, ended when the block ends."""

    def __init__(self, folders: Sequence[Path], cases: Mapping[str, Mapping[str, Any]], seed: int) -> None:
        self.folders, self.cases, self.draw = folders, cases, random.Random(seed)
        self.calls: dict[str, int] = {}
        self.refusals: list[dict[str, str]] = [{}, {}]
        """Of base and of head: case -> why it was not timed, in words."""

    def __enter__(self) -> Sitting:
        self.stack = ExitStack()
        with self.stack:
            home = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsekern-compare-")))
            self.servers = [
                self.stack.enter_context(_Server(folder, home / name, self.cases))
                for folder, name in zip(self.folders, ("base", "head"), strict=True)
            ]
            for server in self.servers:
                server.wait()
            self._calibrate()
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @property
    def names(self) -> list[str]:
        """The cases that both sides take."""
        return list(self.calls)

    def round(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Times (turns, 4) in us of each case in four fresh processes: base 1, head 1, head 2, base 2.

        All of them are pinned to one CPU, where they wait while it is another's turn.
        """
        order = _ORDERS[self.draw.choice(list(_ORDERS))]
        cpu = self.draw.choice(_cpus())
        times = {name: np.empty((TURNS, 4)) for name in names}
        with ExitStack() as stack:
            forks = [stack.enter_context(self._fork(side, cpu)) for side in order]
            for turn in range(TURNS):
                for name in names:
                    for place in range(4)[:: 1 if turn % 2 else -1]:
                        times[name][turn, place] = min(self._samples(forks[place], name, SAMPLES))
        columns = [0, 1, 2, 3] if order[0] == _BASE else [1, 0, 3, 2]
        return {name: found[:, columns] for name, found in times.items()}

    def _fork(self, side: int, cpu: int | None) -> _Fork:
        return _Fork(self.servers[side], self.draw.randrange(1 << 30), cpu)

    def _samples(self, fork: _Fork, name: str, samples: int) -> list[float]:
        index = list(self.cases).index(name)
        asked = {"case": index, "calls": self.calls.get(name, 1), "samples": samples}
        found: list[float] = fork.ask(asked)
        return found

    def _calibrate(self) -> None:
        """How many calls make a sample, by base's time: the same number for both sides."""
        for side in (_BASE, _HEAD):
            with self._fork(side, None) as fork:
                answers = dict(zip(self.cases, fork.refusals, strict=True))
                self.refusals[side] = {name: words for name, words in answers.items() if words is not None}
                if side == _BASE:
                    times = {
                        name: min(self._samples(fork, name, SAMPLES))
                        for name in self.cases
                        if name not in self.refusals[_BASE]
                    }
        self.calls = {
            name: max(1, round(SAMPLE_US / time_us))
            for name, time_us in times.items()
            if name not in self.refusals[_HEAD]
        }


class _Server:
    """A process that has imported one side; killed when the block ends, if it has not ended by itself."""

    def __init__(self, folder: Path, address: Path, cases: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder, self.address, self.cases = folder, address, cases

    def __enter__(self) -> _Server:
        # Python's hashes are drawn anew in every process, and with them the layout of its dicts.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        environment.pop("PYTHONPATH", None)
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), str(self.folder), str(self.address)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            cwd=self.folder,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(self.cases.values())) + "\n")
        self.process.stdin.flush()
        return self

    def wait(self) -> None:
        """Until it has made its layers. ValueError with the last line it said if it failed."""
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise ValueError(f"the sparsekern in {self.folder} does not run: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its log."""
        self.log.seek(0)
        return (self.log.read().splitlines() or ["it said nothing"])[-1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(5 if error is None else 0.1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class _Fork:
    """A fresh process of a server, and the line to it."""

    def __init__(self, server: _Server, seed: int, cpu: int | None) -> None:
        self.server = server
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(server.address))
        self.file = self.socket.makefile("rw")
        self.refusals: list[str | None] = self.ask({"seed": seed, "cpu": cpu})

    def ask(self, question: Mapping[str, Any]) -> Any:
        """The answer. ValueError if the process is no more."""
        self.file.write(json.dumps(question) + "\n")
        self.file.flush()
        if not (text := self.file.readline()):
            raise ValueError(f"a process of {self.server.folder} ended: {self.server.last_words()}")
        return json.loads(text)

    def __enter__(self) -> _Fork:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.socket.close()


def _cpus() -> list[int | None]:
    """Those that this process may use; None where processes cannot be pinned."""
    return [*os.sched_getaffinity(0)] if hasattr(os, "sched_getaffinity") else [None]
