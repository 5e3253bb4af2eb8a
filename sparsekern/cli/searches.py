"""Several searches at once: each in a process of its own, on one torch thread, as many as there are cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from sparsekern.tickets import Search, SearchConfig, search

Watch = Callable[[str, dict[str, Any]], None]
_LOOK_S = 0.2


def search_all(configs: Sequence[SearchConfig], kept: Path, watch: Watch) -> list[Search]:
    """Run every search; finished rounds are kept in, and taken from, the folder `kept`.

    `watch(name, event)` gets the progress events of `sparsekern.tickets.search`, `name` being the search's
    digest. One thread each, so that the masks do not depend on the number of cores.
    """
    workers = min(len(configs), os.cpu_count() or 1)
    if workers > 1:
        _in_processes(configs, kept, watch, workers)
    # What the workers finished is read back here; with one worker it is run here.
    return [
        search(config, out=kept, progress=None if workers > 1 else partial(watch, config.digest))
        for config in configs
    ]


def _in_processes(configs: Sequence[SearchConfig], kept: Path, watch: Watch, workers: int) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's thread pool
    with context.Manager() as manager, ProcessPoolExecutor(workers, context) as pool:
        events = manager.Queue()
        futures = [pool.submit(_work, config, kept, events) for config in configs]
        while not all(future.done() for future in futures):
            _pass_on(events, watch)
            _raise_failure(futures)
        _raise_failure(futures)


def _pass_on(events: Any, watch: Watch) -> None:
    try:
        watch(*events.get(timeout=_LOOK_S))
    except Empty:
        return


def _raise_failure(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        if future.done():
            future.result()


def _work(config: SearchConfig, kept: Path, events: Any) -> None:
    torch.set_num_threads(1)
    search(config, out=kept, progress=lambda event: events.put((config.digest, event)))
