"""What a run says: lines, and how far its searches have come, as a bar or a line every few seconds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
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


class Progress:
    """Takes the events of searches by name: `runs` trainings of `iterations` steps each, in all of them."""

    def __init__(self, title: str, runs: int, iterations: int, stream: TextIO) -> None:
        self.title, self.runs, self.iterations, self.stream = title, runs, iterations, stream
        self.done_runs: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.last_line = monotonic()
        self.bar: Any = None
        if stream.isatty() and find_spec("tqdm") is not None:
            from tqdm import tqdm

            form = "{desc} {percentage:3.0f} % |{bar:24}| {elapsed}, {remaining} to go{postfix}"
            self.bar = tqdm(total=runs * iterations, desc=title, file=stream, leave=False, bar_format=form)

    def __call__(self, search: str, event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            return
        done = event["event"] == "done"
        self.done_runs[search] += done
        self.steps[search] = self.done_runs[search] * self.iterations + (0 if done else event["step"])
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
