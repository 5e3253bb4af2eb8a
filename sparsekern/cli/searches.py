"""Several searches at once: processes of their own with one torch thread, as many as there are CPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.bench import machine
from sparsekern.masks import mask_
from sparsekern.nn import swap_
from sparsekern.tickets import Search, SearchConfig, ranks, search
from sparsekern.tickets.stepper import Swap

Watch = Callable[[str, dict[str, Any]], None]


def search_all(
    configs: Sequence[SearchConfig], kept: Path, watch: Watch, device: str = "cpu"
) -> list[Search]:
    """Run every search; finished rounds are kept in, and taken from, the folder `kept`.

    `watch(name, event)` gets the progress events of `sparsekern.tickets.search`, `name` being the search's
    digest. One thread each, so that the masks do not depend on the number of cores. No process outlives this
    call, nor the process that made it, however that ends. On another device than the CPU, and in one of
    several ranks, it is one search after the other, in this process.

    ValueError and OSError are those of the first search that fails; ChildProcessError, an OSError, if one was
    killed.
    """
    workers = min(len(configs), machine.usable_cpus()) if device == "cpu" and ranks.world() == 1 else 1
    if workers > 1:
        _in_processes(configs, kept, watch, workers)
    # What the workers finished is read back here; with one worker it is run here.
    return [
        search(
            config,
            out=kept,
            progress=None if workers > 1 else partial(watch, config.digest),
            swap=kernels_of(config),
            device=device,
        )
        for config in configs
    ]


def kernels_of(config: SearchConfig) -> Swap | None:
    """What puts sparse kernels under a search's training: none without `sparse_from`."""
    return None if config.sparse_from is None else partial(_train_sparse_, config.sparse_from)


def _train_sparse_(threshold: float, model: nn.Module, masks: Mapping[str, Tensor], x: Tensor) -> None:
    """Sparse layers for those at least `threshold` sparse; the others stay plain."""
    for name, mask in masks.items():
        if 1 - float(mask.double().mean()) >= threshold:
            mask_(model.get_submodule(name.removesuffix(".weight")), mask)
    swap_(model, x, threshold=threshold)


def _in_processes(configs: Sequence[SearchConfig], kept: Path, watch: Watch, workers: int) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's thread pool
    running: dict[Connection, SpawnProcess] = {}
    try:
        for first in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(configs[first::workers], kept, sender), daemon=True)
            with _interrupts_ignored():
                worker.start()
            running[receiver] = worker
            sender.close()  # the worker's copy is now the only one, so its end is the end of the pipe
        while running:
            ready = wait(list(running))
            for receiver in [receiver for receiver in running if receiver in ready]:
                _hear(receiver, running, watch)
    finally:
        for worker in running.values():
            worker.terminate()
        for worker in running.values():
            worker.join()


def _hear(receiver: Connection, running: dict[Connection, SpawnProcess], watch: Watch) -> None:
    """Pass one event on; raise what a worker raised; strike a worker off that has ended."""
    try:
        name, event = receiver.recv()
    except (EOFError, ConnectionError):
        worker = running.pop(receiver)
        worker.join()
        if worker.exitcode:
            raise ChildProcessError(f"a search was ended with exit code {worker.exitcode}") from None
        return
    if isinstance(event, BaseException):
        raise event
    watch(name, event)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process started inside never hears Ctrl-C: its parent does, and stops it."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(configs: Sequence[SearchConfig], kept: Path, sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    for config in configs:
        try:
            search(config, out=kept, progress=partial(_send, sender, config.digest), swap=kernels_of(config))
        except (ValueError, OSError) as error:
            _send(sender, config.digest, error)
            return


def _send(sender: Connection, name: str, event: object) -> None:
    sender.send((name, event))


def _end_with_parent() -> None:
    """End this process at once when its parent has ended, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
