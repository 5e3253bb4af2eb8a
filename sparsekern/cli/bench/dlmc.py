"""Real masks: the pruned ResNet-50s of the Deep Learning Matrix Collection (Gale et al. 2020, arXiv
2006.10901), each layer as a product with the rows that one image gives it.

A folder holds index.json (the files), the files (.npz: for each layer its mask as packed bits, and its shape
under its name with ".shape") and rn50_batchsizes.txt (lines "layer,rows").
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsekern.bench import Ratio, keep_sparse
from sparsekern.cli.bench.cases import Case
from sparsekern.cli.bench.measure import Result, Setting, measure
from sparsekern.cli.bench.records import Journal, about
from sparsekern.cli.bench.table import line, notes, percent, row, table_head
from sparsekern.cli.progress import Bar, say

INDEX, ROWS = "index.json", "rn50_batchsizes.txt"


@dataclass(frozen=True)
class Layer:
    """A layer of one file; `mask` is bool (n, k), made from its packed bits when it is asked for."""

    file: str
    name: str
    rows: int
    shape: tuple[int, int]
    bits: bytes

    @property
    def mask(self) -> Tensor:
        """Where a weight lives: rows are output channels, columns inputs."""
        packed = np.frombuffer(self.bits, np.uint8).reshape(self.shape[0], -1)
        return torch.from_numpy(np.unpackbits(packed, axis=1, count=self.shape[1]).astype(bool))


def layers(data_dir: Path | None = None, limit: int | None = None) -> list[Layer]:
    """Every layer of every file, file by file; with `limit` only so many of each, evenly spread.

    ValueError if the folder or a file is missing or not what it should be.
    """
    folder = _folder(data_dir)
    rows = _rows(folder / ROWS)
    found = []
    for file in _files(folder / INDEX):
        of_file = list(_layers(folder / file, rows))
        count = len(of_file) if limit is None else min(limit, len(of_file))
        found += [of_file[index * len(of_file) // count] for index in range(count)]
    if not found:
        raise ValueError(f"{folder / INDEX}: names no layer, expected at least one")
    return found


def _folder(data_dir: Path | None) -> Path:
    """The folder named by `data_dir` or SPARSEKERN_DATA, or shared/data beside the working directory or any
    folder above it; the files lie in it, or in dlmc/ inside."""
    named = data_dir or os.environ.get("SPARSEKERN_DATA")
    here = Path.cwd()
    roots = [Path(named)] if named else [folder / "shared" / "data" for folder in (here, *here.parents)]
    for folder in (place for root in roots for place in (root / "dlmc", root)):
        if (folder / INDEX).is_file() and (folder / ROWS).is_file():
            return folder
    where = f"in {named}" if named else "in shared/data here or above; name a folder by --data-dir"
    raise ValueError(f"no Deep Learning Matrix Collection: expected {INDEX} and {ROWS} {where}")


def _files(path: Path) -> list[str]:
    try:
        return [str(entry["file"]) for entry in json.loads(path.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: expected a list of {{"file": name}}: {error}') from error


def _rows(path: Path) -> dict[str, int]:
    pairs = [text.partition(",") for text in path.read_text("utf-8").split()]
    if wrong := [name for name, _, count in pairs if not count.isdecimal() or int(count) < 1]:
        raise ValueError(f"{path}: expected lines of a name and a number such as conv,196; see {wrong[0]}")
    return {name: int(count) for name, _, count in pairs}


def _layers(path: Path, rows: dict[str, int]) -> Iterator[Layer]:
    arrays = _arrays(path)
    for name, packed in arrays.items():
        if name.endswith(".shape"):
            continue
        shape = tuple(int(size) for size in arrays.get(f"{name}.shape", ()))
        fits = len(shape) == 2 and packed.shape == (shape[0], -(-shape[1] // 8)) and packed.size > 0
        if packed.dtype != np.uint8 or not fits:
            raise ValueError(
                f"{path}, {name}: expected the bits of a mask of shape {shape} in uint8, eight to a byte, "
                f"got {packed.dtype} {packed.shape}"
            )
        if name not in rows:
            raise ValueError(f"{path}, {name}: expected its rows in {ROWS}, there are none")
        yield Layer(path.name, name, rows[name], (shape[0], shape[1]), packed.tobytes())


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected an .npz file of arrays, there is none")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected an .npz file of arrays: {error}") from error


@dataclass(frozen=True)
class Task:
    """A layer to time, in the table called `title`; `make` gives case and mask when its turn comes."""

    title: str
    layer: Layer
    make: Callable[[], tuple[Case, Tensor]]


def bench(tasks: Sequence[Task], setting: Setting, journal: Journal) -> None:
    """Time each layer; print for every title a table of the layers and one of their distribution."""
    everything: list[Result] = []
    with Bar("timing", len(tasks), sys.stderr) as bar:
        for title, of_title in groupby(tasks, key=lambda task: task.title):
            results: dict[str, Result] = {}
            for task in of_title:
                case, mask = task.make()
                if journal.has(about(case, file=task.layer.file, layer=task.layer.name), setting.rivals):
                    bar.step()
                    continue
                if not results:
                    head = table_head(setting.rivals, f"layer, {case.first_column}")
                    bar.say(f"{title}\n\n{head}", sys.stdout)
                name = task.layer.name
                results[name] = result = measure(case, case.tensors(mask), setting)
                bar.say(row(result, setting.rivals, name), sys.stdout)
                bar.step()
                journal.write(result, file=task.layer.file, layer=name)
            for text in distribution(results) if results else ():
                bar.say(text, sys.stdout)
            everything += results.values()
    for note in notes(everything, setting) if everything else ():
        say(f"- {note}", sys.stdout)


def distribution(results: dict[str, Result]) -> Iterator[str]:
    """Lines on one table's layers, results by name: the spread of the speed-ups, who lost, and what a network
    gains that keeps dense what is not faster."""
    yield "\n" + line(["speed-up", "min", "10 %", "median", "90 %", "max", "layers won", "total time"])
    yield f"|{'---|' * 8}"
    lost = []
    case = next(iter(results.values())).case
    for words, rivals in (("best dense", case.dense_rivals), ("the better torch CSR", case.csr_rivals)):
        bases = {name: base for name, result in results.items() if (base := result.fastest(rivals))}
        if not bases:
            yield line([f"against {words}", *["n/a"] * 7])
            continue
        speedups = {name: _speedup(results[name], base).value for name, base in bases.items()}
        spread = np.quantile(list(speedups.values()), (0, 0.1, 0.5, 0.9, 1))
        won = sum(speedup > 1 for speedup in speedups.values())
        total = sum(results[name].times[base].median_us for name, base in bases.items())
        ours = sum(results[name].ours.median_us for name in bases)
        cells = [f"against {words}", *(f"{value:.2f}x" for value in spread)]
        yield line([*cells, f"{won} of {len(bases)} ({percent(won / len(bases))})", f"{total / ours:.2f}x"])
        lost += [
            f"{name}: {speedup:.2f}x against {words}" for name, speedup in speedups.items() if speedup <= 1
        ]
    yield ""
    yield from (f"- lost: {layer}" for layer in lost)
    if not lost:
        yield "- no layer lost"
    yield from _with_dense_kept(results)
    yield ""


def _with_dense_kept(results: dict[str, Result]) -> Iterator[str]:
    """The total when every layer takes what `swap_` would: sparse where that is clearly faster."""
    dense, mixed, kept = 0.0, 0.0, []
    for name, result in results.items():
        if (base := result.best_dense) is None:
            continue
        swaps, reason = keep_sparse(_speedup(result, base))
        dense += result.times[base].median_us
        mixed += (result.ours if swaps else result.times[base]).median_us
        if not swaps:
            kept.append(f"{name}: {reason}")
    if dense:
        yield f"- total time with {len(kept)} layers kept dense: {dense / mixed:.2f}x against best dense"
    yield from (f"- kept dense: {layer}" for layer in kept)


def _speedup(result: Result, base: str) -> Ratio:
    speedup = result.against(base)
    assert speedup is not None
    return speedup
