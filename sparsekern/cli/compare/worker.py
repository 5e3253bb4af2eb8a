"""One side of a comparison, as a script of its own: `python worker.py FOLDER SOCKET`.

It imports sparsekern from FOLDER, whatever revision that is, so it uses public names only that every revision
has. It makes a layer for each case once, and calls none. Then every connection to SOCKET is served by a fresh
fork, with copies of the layers at new places in memory, in a thread of its own: the stack of the first thread
stands at a place that is drawn when the program starts, and some kernels are several percent slower on some
places. A connection and this process speak in lines of JSON.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from time import perf_counter_ns
from typing import Any

Case = Mapping[str, Any]
Made = Any  # a layer and its input, or why there is none, in words


def main(folder: str, address: str) -> None:
    """Serve until the one who started this closes its end of stdin."""
    sys.path.insert(0, folder)
    import sparsekern

    if Path(folder).resolve() not in Path(sparsekern.__file__).resolve().parents:
        raise ImportError(f"sparsekern came from {sparsekern.__file__}, expected {folder}")
    import torch

    torch.set_num_threads(1)
    cases = json.loads(sys.stdin.readline())
    with torch.inference_mode():
        made = [_make(case) for case in cases]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        print("ready", flush=True)
        _serve(door, made)


def _serve(door: socket.socket, made: Sequence[Made]) -> None:
    while True:
        ready, _, _ = select.select([door, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        line, _ = door.accept()
        if os.fork() == 0:
            door.close()
            thread = threading.Thread(target=_answer, args=(line, made))
            thread.start()
            thread.join()
            os._exit(0)
        line.close()


def _answer(line: socket.socket, made: Sequence[Made]) -> None:
    """What a fork does: {seed, cpu} comes first, and the refusals go back, then for each {case, calls,
    samples} the samples in us."""
    import torch

    with line.makefile("rw") as file, torch.inference_mode():
        asked = json.loads(file.readline())
        if asked["cpu"] is not None:
            os.sched_setaffinity(0, {asked["cpu"]})
        copies, gaps = _copies(made, asked["seed"])
        calls = [thing if isinstance(thing, str) else _attempt(thing) for thing in copies]
        gc.disable()
        answer: object = [call if isinstance(call, str) else None for call in calls]
        while True:
            file.write(json.dumps(answer) + "\n")
            file.flush()
            if not (text := file.readline()):
                del gaps  # which had to last until here
                return
            asked = json.loads(text)
            call = calls[asked["case"]]
            answer = [] if isinstance(call, str) else _samples_us(call, asked["calls"], asked["samples"])


def _copies(made: Sequence[Made], seed: int) -> tuple[list[Made], list[object]]:
    """Layers and inputs in memory of their own, with gaps of random size between, and those gaps."""
    import torch

    draw = random.Random(seed)
    copies: list[Made] = []
    gaps: list[object] = []
    for thing in made:
        gaps.append(torch.empty(64 * draw.randrange(1, 128), dtype=torch.uint8))
        copies.append(copy.deepcopy(thing))
    return copies, gaps


def _attempt(thing: tuple[Callable[[object], object], object]) -> Callable[[], object] | str:
    """The call of a layer with its input, called once, or its refusal in words."""
    layer, x = thing
    try:
        layer(x)
    except (ValueError, RuntimeError) as error:
        return _first_line(error)
    return lambda: layer(x)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _samples_us(call: Callable[[], object], calls: int, samples: int) -> list[float]:
    """Time per call of each sample, after one that is not counted: the process before has filled the caches
    with its own data."""
    found = []
    for _ in range(samples + 1):
        start = perf_counter_ns()
        for _ in repeat(None, calls):
            call()
        found.append((perf_counter_ns() - start) / (1e3 * calls))
    return found[1:]


def _make(case: Case) -> Made:
    """The layer of a case and its input; in words why this revision has none."""
    import torch
    from torch import nn

    import sparsekern

    generator = torch.Generator().manual_seed(0)
    n, k, block, dtype = case["n"], case["k"], tuple(case["block"]), getattr(torch, case["dtype"])
    side = case.get("kernel")
    dense: nn.Module = nn.Linear(k, n) if side is None else nn.Conv2d(k, n, side, padding=side // 2)
    columns = k if side is None else k * side * side
    alive = torch.rand(-(-n // block[0]), -(-columns // block[1]), generator=generator) >= case["sparsity"]
    mask = alive.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:n, :columns]
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        dense.weight.mul_(mask.view(dense.weight.shape))  # type: ignore[operator]
    shape = (case["m"], k) if side is None else (case["m"], k, case["map"], case["map"])
    x = torch.randn(shape, generator=generator).to(dtype)
    name = "SparseLinear" if side is None else "SparseConv2d"
    if not hasattr(sparsekern, name):
        return f"has no {name}"
    try:
        return getattr(sparsekern, name).from_dense(dense.to(dtype), block=block), x
    except (ValueError, RuntimeError) as error:
        return _first_line(error)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
