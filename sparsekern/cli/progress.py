"""What a command says: lines, and how far it has come, as a bar or a line every few seconds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 5.0


def say(line: str, stream: TextIO) -> None:
    """Print a line at once. No reader (`| head -1`) and no letter for it in the encoding end no run."""
    encoding = stream.encoding or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        # What is said from now on, and what is still in the buffer, goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _tqdm(title: str, total: int, stream: TextIO) -> Any:
    """A bar of tqdm; None where `stream` is no terminal, or tqdm not installed."""
    if not stream.isatty() or find_spec("tqdm") is None:
        return None
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f} % |{bar:24}| {elapsed}, {remaining} to go{postfix}"
    return tqdm(total=total, desc=title, file=stream, leave=False, bar_format=form)


class Bar:
    """How many of `total` things are done, on a terminal; anywhere else it shows nothing."""

    def __init__(self, title: str, total: int, stream: TextIO) -> None:
        self.bar = _tqdm(title, total, stream)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def say(self, line: str, stream: TextIO) -> None:
        """Print a line while the bar is out of the way."""
        if self.bar is not None:
            self.bar.clear()
        say(line, stream)

    def step(self) -> None:
        """One more is done."""
        if self.bar is not None:
            self.bar.update()
            self.bar.refresh()


class Progress:
    """Takes the events of searches by name: `runs` trainings of `iterations` steps each, in all of them."""

    def __init__(self, title: str, runs: int, iterations: int, stream: TextIO) -> None:
        self.title, self.runs, self.iterations, self.stream = title, runs, iterations, stream
        self.done_runs: Counter[str] = Counter()
        self.started: dict[str, int] = {}
        self.steps: Counter[str] = Counter()
        self.last_line = monotonic()
        self.bar = _tqdm(title, runs * iterations, stream)

    def __call__(self, search: str, event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            self.started[search] = event["iterations"]
            return
        done = event["event"] == "done"
        self.done_runs[search] += done
        # Some controls are trained longer than the others; each counts as one.
        within = (
            0 if done else round(event["step"] / self.started.get(search, self.iterations) * self.iterations)
        )
        self.steps[search] = self.done_runs[search] * self.iterations + within
        steps = self.steps.total()
        where = f"round {event['round']} ({event['kind']}), {100 * event['sparsity']:.1f} % sparse"
        accuracy = f"validation {100 * event['val_accuracy']:.2f} %"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{where}, {accuracy}", refresh=False)
            self.bar.update(steps - self.bar.n)
        elif monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = monotonic()
            share = 100 * steps / (self.runs * self.iterations)
            say(f"{self.title}: {share:3.0f} %, {where}, {accuracy}", self.stream)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            self.bar.close()


class TensorBoard:
    """Writes the events of searches for TensorBoard: one run for each training, curves over its steps."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.make = folder, SummaryWriter
        self.writers: dict[str, Any] = {}

    def __call__(self, search: str, event: Mapping[str, Any]) -> None:
        if event["event"] != "eval":
            return
        run = f"{search}/{event['kind']}-{event['round']:02}"
        if run not in self.writers:
            self.writers[run] = self.make(str(self.folder / run))
        for name in ("val_loss", "val_accuracy"):
            self.writers[run].add_scalar(name, event[name], event["step"])

    def close(self) -> None:
        """Write what is not on disk yet."""
        for writer in self.writers.values():
            writer.close()
