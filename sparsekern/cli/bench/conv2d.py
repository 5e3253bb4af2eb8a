"""`sparsekern bench conv2d`: the convolution kernels against their rivals."""

from __future__ import annotations

import argparse
from functools import partial

from torch import Tensor

from sparsekern.cli.bench import dlmc, dlmc_conv
from sparsekern.cli.bench.cases_conv import ConvCase, conv_case, conv_cases
from sparsekern.cli.bench.command import Command, bench
from sparsekern.cli.bench.presets_conv import PRESETS_CONV2D, ConvGrid
from sparsekern.cli.bench.rivals_conv import RIVALS_CONV2D

SHAPE = ("channels", "kernel", "map", "stride", "padding", "dilation")
SIZES = {"block": "blocks", "batch": "batches", "sparsity": "sparsities"}
"""Options that replace what a preset's shapes say, and what its grids say, with their fields of ConvGrid."""

BATCHES = (1, 16)
"""How many images real masks meet, unless `--batch` says it."""


def bench_conv2d(options: argparse.Namespace) -> int:
    """The command; see `command.bench`."""
    no_choice = (*SHAPE, "sparsity", "block")
    return bench(
        options, Command(PRESETS_CONV2D, ConvCase, tuple(RIVALS_CONV2D), no_choice, _cases, _of_files)
    )


def _cases(options: argparse.Namespace) -> list[ConvCase]:
    fields = {**{name: name for name in SHAPE}, **SIZES, "dtype": "dtype", "memory_format": "memory_format"}
    given = {field: getattr(options, name) for name, field in fields.items()}
    return conv_cases(
        PRESETS_CONV2D[options.preset], {field: value for field, value in given.items() if value is not None}
    )


def _of_files(options: argparse.Namespace) -> list[dlmc.Task]:
    """Every convolution, a table for each file and batch."""
    grid = ConvGrid((), dtype=options.dtype or "float32", memory_format=options.memory_format or "contiguous")
    convolutions = dlmc_conv.convolutions(dlmc.layers(options.data_dir, options.limit))
    files = list(dict.fromkeys(layer.file for layer in convolutions))
    return [
        dlmc.Task(f"{file}, batch {batch}", layer, partial(_masked, layer, batch, grid))
        for file in files
        for batch in options.batch or BATCHES
        for layer in convolutions
        if layer.file == file
    ]


def _masked(layer: dlmc.Layer, batch: int, grid: ConvGrid) -> tuple[ConvCase, Tensor]:
    shape = dlmc_conv.shape_of(layer)
    mask = dlmc_conv.mask_of(layer, shape)
    return conv_case(shape, batch, 1 - float(mask.double().mean()), (1, 1), grid), mask
