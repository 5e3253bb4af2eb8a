"""The options of `sparsekern gpu` and `sparsekern tune`. No torch is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsekern.cli.arguments import block, positive, seconds, shape, share

PARTS = {"check": 90.0, "tune": 120.0, "linear": 190.0, "conv": 30.0, "train": 30.0, "model": 40.0}
"""The parts, each a module of this package, in their order, and for how many seconds each may begin something
new: all of them, with their starts, take nine minutes at most."""


def add_gpu(gpu: argparse.ArgumentParser) -> None:
    """Of `sparsekern gpu`."""
    gpu.add_argument("--part", choices=PARTS, help="only this part; by default all, each in its own process")
    gpu.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder of the device's JSON (%(default)s)",
    )
    gpu.add_argument("--seconds", type=seconds, help="for the part, instead of what it has by default")
    gpu.add_argument("--tiny", action="store_true", help="small shapes, whose times mean nothing")


def add_tune(tune: argparse.ArgumentParser) -> None:
    """Of `sparsekern tune`."""
    tune.add_argument("--shape", type=shape, nargs="+", metavar="NxK", help="outputs x inputs")
    tune.add_argument("--batch", type=positive, nargs="+", metavar="ROWS", help="rows of x")
    tune.add_argument("--block", type=block, nargs="+", metavar="RxC", help="outputs x inputs")
    tune.add_argument("--sparsity", type=share, nargs="+", metavar="SHARE", help="of zeros (0.9)")
    tune.add_argument("--seconds", type=seconds, default=PARTS["tune"], help="for all (%(default)s)")
    tune.add_argument("--tiny", action="store_true", help="small shapes, whose times mean nothing")
