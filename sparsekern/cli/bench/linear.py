"""`sparsekern bench linear`: the linear kernels against their rivals."""

from __future__ import annotations

import argparse
from functools import partial

from torch import Tensor

from sparsekern.cli.bench import dlmc
from sparsekern.cli.bench.cases_linear import LinearCase, cases
from sparsekern.cli.bench.command import Command, bench
from sparsekern.cli.bench.presets import PRESETS
from sparsekern.cli.bench.rivals import RIVALS

SIZES = {"shape": "shapes", "block": "blocks", "batch": "batches", "sparsity": "sparsities"}
"""Options that replace what a preset's grids say, and the fields of Grid that they replace."""


def bench_linear(options: argparse.Namespace) -> int:
    """The command; see `command.bench`."""
    return bench(options, Command(PRESETS, LinearCase, tuple(RIVALS), tuple(SIZES), _cases, _of_files))


def _cases(options: argparse.Namespace) -> list[LinearCase]:
    given = {field: tuple(getattr(options, name) or ()) for name, field in SIZES.items()}
    given = {field: value for field, value in given.items() if value}
    dtype = {} if options.dtype is None else {"dtype": options.dtype}
    return cases(PRESETS[options.preset], {**given, **dtype})


def _of_files(options: argparse.Namespace) -> list[dlmc.Task]:
    return [
        dlmc.Task(layer.file, layer, partial(_masked, layer, options.dtype or "float32"))
        for layer in dlmc.layers(options.data_dir, options.limit)
    ]


def _masked(layer: dlmc.Layer, dtype: str) -> tuple[LinearCase, Tensor]:
    """The product with the rows that one image gives the layer."""
    mask = layer.mask
    return LinearCase(layer.rows, *layer.shape, 1 - float(mask.double().mean()), (1, 1), dtype), mask
