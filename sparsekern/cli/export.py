"""`sparsekern export`: the lines of a benchmark as a table, a page, or a file of another tool."""

from __future__ import annotations

import argparse
import sys

from sparsekern.bench.export import EXPORTS, export
from sparsekern.bench.record import read
from sparsekern.cli.progress import say


def export_command(options: argparse.Namespace) -> int:
    """Returns 0; ValueError, nothing written, for a file that is not what `bench --json` writes."""
    records = read(options.results)
    if options.out is not None:
        export(records, options.to, options.out)
        return 0
    made = EXPORTS[options.to](records)
    if not isinstance(made, str):
        raise ValueError(f"--to {options.to}: makes a folder, expected --out with its name")
    say(made.rstrip("\n"), sys.stdout)
    return 0
