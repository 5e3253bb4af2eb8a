"""The command line: `sparsekern run` finds, swaps and proves; `sparsekern bench` times kernels against their
rivals; `sparsekern doctor` says what the machine has.

Exit code 0 when the command did its work (whatever the verdict); with one line on stderr, 2 for bad input and
for what went wrong on the way, 130 when it was stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sparsekern.cli.bench.presets import DTYPES, INT8, PRESETS
from sparsekern.cli.progress import say

MOST_SEEDS = 1000
STRUCTURES = {"unstructured": (1, 1), "16x1": (16, 1)}


class _Parser(argparse.ArgumentParser):
    """argparse that complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `sparsekern`; `arguments` are those of the process when None. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    try:
        return _COMMANDS[options.command](options)
    except (ValueError, ImportError, OSError) as error:
        say(f"sparsekern: {' '.join(str(error).split())}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        say(f"sparsekern: stopped{'; --resume goes on' if options.command == 'run' else ''}", sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    from sparsekern.cli.run import run

    return run(options)


def _bench(options: argparse.Namespace) -> int:
    from sparsekern.cli.bench.linear import bench_linear

    return bench_linear(options)


def _doctor(options: argparse.Namespace) -> int:
    from sparsekern.cli.doctor import doctor

    return doctor(options)


_COMMANDS = {"run": _run, "bench": _bench, "doctor": _doctor}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sparsekern", description="Find winning tickets, swap their layers, prove the speed-up."
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_run(commands.add_parser("run", help="find a ticket, swap its layers, prove it in a report"))
    bench = commands.add_parser("bench", help="time a kernel against its rivals")
    kernels = bench.add_subparsers(dest="kernel", required=True, parser_class=_Parser)
    _add_bench_linear(kernels.add_parser("linear", help="y = x W^T + b with a sparse W"))
    doctor = commands.add_parser("doctor", help="what this machine has and which kernels run on it")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("experiment", nargs="?", default="lenet300", help="network of the zoo (%(default)s)")
    run.add_argument("--rounds", type=_positive, default=12, help="pruning rounds (%(default)s)")
    run.add_argument("--rate", type=float, default=0.2, help="share pruned a round (%(default)s)")
    shape = run.add_mutually_exclusive_group()
    shape.add_argument("--structure", choices=[*STRUCTURES, "both"], default="both", help="(%(default)s)")
    shape.add_argument(
        "--block", type=_block, metavar="RxC", help="any other block, outputs x inputs, such as 8x1"
    )
    run.add_argument("--seed", type=_natural, default=0, help="first seed (%(default)s)")
    run.add_argument("--seeds", type=_seeds, default=1, help="how many seeds from there on (%(default)s)")
    run.add_argument("--data", default="fashion-mnist-6k", help="data set of the zoo (%(default)s)")
    run.add_argument("--data-dir", type=Path, help="folder of the full data sets")
    run.add_argument(
        "--out", type=Path, default=Path("sparsekern-run"), help="folder of the report (%(default)s)"
    )
    run.add_argument("--resume", action="store_true", help="go on with what an earlier run left in --out")
    run.add_argument("--batch", type=_positive, default=256, help="test images in a timed pass (%(default)s)")
    run.add_argument("--iterations", type=_positive, help="training steps a round, instead of the recipe's")
    run.add_argument("--quiet", action="store_true", help="print the verdict and the report's path only")


def _add_bench_linear(linear: argparse.ArgumentParser) -> None:
    linear.add_argument("--preset", choices=PRESETS, default="quick", help="what is timed (%(default)s)")
    sizes = linear.add_argument_group("instead of what the preset says")
    sizes.add_argument("--shape", type=_pair, nargs="+", metavar="NxK", help="outputs x inputs")
    sizes.add_argument("--sparsity", type=_share, nargs="+", metavar="SHARE", help="of zeros: 0.8 0.9")
    sizes.add_argument("--block", type=_block, nargs="+", metavar="RxC", help="outputs x inputs")
    sizes.add_argument("--batch", type=_positive, nargs="+", metavar="ROWS", help="rows of x")
    sizes.add_argument("--dtype", choices=(*DTYPES, INT8), help="of weight and x")
    sizes.add_argument("--budget", type=_seconds, metavar="SECONDS", help="for each case")
    linear.add_argument("--threads", type=_positive, default=1, help="torch threads (%(default)s)")
    linear.add_argument("--json", type=Path, metavar="FILE", help="append a JSON line per rival and case")
    masks = linear.add_argument_group("with --preset dlmc")
    masks.add_argument("--data-dir", type=Path, help="folder of the Deep Learning Matrix Collection")
    masks.add_argument("--limit", type=_positive, metavar="K", help="only K layers of each file")


def _positive(text: str) -> int:
    if (value := _natural(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def _seeds(text: str) -> int:
    if (value := _positive(text)) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_SEEDS} seeds, got {text!r}")
    return value


def _natural(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _block(text: str) -> tuple[int, int]:
    return _two(text, "a block such as 16x1 (outputs x inputs)")


def _pair(text: str) -> tuple[int, int]:
    return _two(text, "a shape such as 3072x768 (outputs x inputs)")


def _two(text: str, what: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
    return int(match[1]), int(match[2])


def _share(text: str) -> float:
    if not 0 <= (value := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share of zeros from 0 to below 1, got {text!r}")
    return value


def _seconds(text: str) -> float:
    if not 0 < (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # which lies in no range
