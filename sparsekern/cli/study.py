"""What `sparsekern run` is to find: the searches of all structures and seeds, from a TOML file and options.

model = "lenet300"
data = "mnist"
seeds = 3
blocks = ["1x1", "16x1"]
batch = 256

[recipe]            # fields of tickets.Recipe; the rest is as the paper has it
iterations = 50_000

[search]            # fields of tickets.SearchConfig
rounds = 16
controls = ["reinit", "random", "regroup:16x1"]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from sparsekern.cli import STRUCTURES
from sparsekern.cli.arguments import block
from sparsekern.tickets import SearchConfig, Task, task
from sparsekern.tickets.config import with_tuples

DEFAULTS: dict[str, Any] = {
    "model": "lenet300",
    "data": "fashion-mnist-6k",
    "seed": 0,
    "seeds": 1,
    "blocks": list(STRUCTURES),
    "batch": 256,
    "recipe": {},
    "search": {},
}
# What the file says at its head, and not in [search].
ELSEWHERE = ("task", "seed", "block")


@dataclass(frozen=True)
class Study:
    """The searches by the structure's name, one for each seed; `batch` images are timed in one pass."""

    task: Task
    configs: Mapping[str, tuple[SearchConfig, ...]]
    batch: int

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return [config.seed for config in next(iter(self.configs.values()))]


def study_of(options: argparse.Namespace) -> Study:
    """The study that the command line asks for: options over the TOML file over DEFAULTS.

    ValueError for a file that cannot be read, keys that mean nothing, and values out of range.
    """
    named = options.experiment
    from_file = read(Path(named)) if named is not None and named.endswith(".toml") else {}
    values = {**DEFAULTS, **from_file, **_given(options, from_file)}
    if options.iterations is not None:
        values["recipe"] = {**values["recipe"], "iterations": options.iterations}
    return _study(values, options.data_dir)


def _given(options: argparse.Namespace, from_file: Mapping[str, Any]) -> dict[str, Any]:
    """What the options say; those that were not given are None."""
    given = {"data": options.data, "seed": options.seed, "seeds": options.seeds, "batch": options.batch}
    if options.experiment is not None and not options.experiment.endswith(".toml"):
        given["model"] = options.experiment
    if options.block is not None:
        given["blocks"] = ["x".join(map(str, options.block))]
    elif options.structure is not None:
        given["blocks"] = list(STRUCTURES) if options.structure == "both" else [options.structure]
    search = {name: getattr(options, name) for name in SEARCH_OPTIONS}
    found = with_tuples({name: value for name, value in search.items() if value is not None})
    given["search"] = {**from_file.get("search", {}), **found}
    return {name: value for name, value in given.items() if value is not None}


SEARCH_OPTIONS = ("rounds", "rate", "rewind_to", "method", "reset", "controls", "sparse_from")


def configs_of(values: Mapping[str, Any], data_dir: Path | None = None) -> list[SearchConfig]:
    """The searches of all structures and seeds that `values`, out of a file, describe."""
    return [
        config for configs in _study({**DEFAULTS, **values}, data_dir).configs.values() for config in configs
    ]


def _study(values: Mapping[str, Any], data_dir: Path | None) -> Study:
    try:
        return _made(values, data_dir)
    except TypeError as error:  # a text where a number belongs
        raise ValueError(f"a value of another type is expected: {error}") from error


def _made(values: Mapping[str, Any], data_dir: Path | None) -> Study:
    shapes = [_shape(name) for name in values["blocks"]]
    if len(set(shapes)) != len(shapes):
        raise ValueError(f"each block once is expected, got {values['blocks']}")
    chosen = task(values["model"], values["data"], data_dir, **values["recipe"])
    configs = {
        name: tuple(
            SearchConfig.of(chosen, **{**values["search"], "block": shape, "seed": values["seed"] + offset})
            for offset in range(values["seeds"])
        )
        for name, shape in ((name, _shape(name)) for name in values["blocks"])
    }
    return Study(chosen, configs, values["batch"])


def read(path: Path, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of a TOML file, which may have the keys of DEFAULTS and `more`.

    ValueError for one that is missing, no TOML, or says what nobody reads.
    """
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        values = toml.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: a TOML file is expected: {error}") from error
    require_known(str(path), values, more)
    tables = {name: with_tuples(values[name]) for name in ("recipe", "search") if name in values}
    return {**values, **tables}


def require_known(where: str, values: Mapping[str, Any], more: tuple[str, ...] = ()) -> None:
    """ValueError for keys that nobody reads, and values of a type that makes no sense."""
    for name, usual in DEFAULTS.items():
        if not isinstance(values.get(name, usual), type(usual)):
            raise ValueError(f"{where}: {name} of type {type(usual).__name__} expected, got {values[name]!r}")
    known = [field.name for field in fields(SearchConfig) if field.name not in ELSEWHERE]
    for place, found, expected in (
        (where, values, [*DEFAULTS, *more]),
        (f"{where} [search]", values.get("search", {}), known),
    ):
        if unknown := set(found) - set(expected):
            raise ValueError(f"{place}: unknown keys {sorted(unknown)}, expected some of {expected}")
    for name in ("seeds", "batch"):
        if values.get(name, 1) < 1:
            raise ValueError(f"{where}: {name} of at least 1 expected, got {values[name]}")
    blocks = values.get("blocks", ["1x1"])
    if not blocks or not all(isinstance(one, str) for one in blocks):
        raise ValueError(f'{where}: blocks such as ["unstructured", "16x1"] expected, got {blocks}')


def _shape(name: str) -> tuple[int, int]:
    if name in STRUCTURES:
        return STRUCTURES[name]
    try:
        return block(name)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"blocks: {error}, or one of {list(STRUCTURES)}") from error
