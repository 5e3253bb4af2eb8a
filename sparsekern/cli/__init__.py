"""The command line: `sparsekern run` finds, swaps and proves, `sparsekern sweep` finds in many settings;
`sparsekern bench` times kernels against their rivals, `sparsekern export` makes tables and pages of it,
`sparsekern compare` says whether a revision is slower; `sparsekern doctor` says what the machine has;
`sparsekern inspect` what GPU kernels are compiled to; `sparsekern gpu` checks, tunes and times them on a GPU,
`sparsekern tune` tunes only.

Exit code 0 when the command did its work (whatever the verdict), 1 when `inspect` found a fault or `compare`
something slower, 2 when `compare` could not decide; with one line on stderr, 2 for bad input and for what
went wrong on the way, 130 when it was stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from sparsekern.cli.arguments import Parser, block, natural, positive, seeds, share
from sparsekern.cli.bench.options import add_bench, add_export
from sparsekern.cli.compare.options import add_compare
from sparsekern.cli.gpu.options import add_gpu, add_tune
from sparsekern.cli.progress import say

STRUCTURES = {"unstructured": (1, 1), "16x1": (16, 1)}
# Those of tickets.config, which is not imported for --help.
METHODS = ("iterative", "one-shot")
RESETS = ("weights", "lr", "none")
ARCHES = ("sm_80", "sm_90", "sm_100")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `sparsekern`; `arguments` are those of the process when None. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    try:
        return _function(options)(options)
    except (ValueError, ImportError, OSError) as error:
        say(f"sparsekern: {' '.join(str(error).split())}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = options.command == "run" or (options.command == "bench" and options.json is not None)
        say(f"sparsekern: stopped{'; --resume goes on' if kept else ''}", sys.stderr)
        return 130


_COMMANDS = {
    "run": "run:run",
    "sweep": "sweep:sweep",
    "bench": "bench.{op}:bench_{op}",
    "export": "export:export_command",
    "compare": "compare.command:compare",
    "doctor": "doctor:doctor",
    "inspect": "inspect:inspect",
    "gpu": "gpu.command:gpu",
    "tune": "gpu.tune:tune_command",
}
"""command -> where its function is, imported when it is asked for: `--help` needs no torch."""


def _function(options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    place = _COMMANDS[options.command].format(op=getattr(options, "op", ""))
    module, _, name = place.partition(":")
    found: Callable[[argparse.Namespace], int] = getattr(import_module(f"sparsekern.cli.{module}"), name)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sparsekern", description="Find winning tickets, swap their layers, prove the speed-up."
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    _add_run(commands.add_parser("run", help="find a ticket, swap its layers, prove it in a report"))
    _add_sweep(commands.add_parser("sweep", help="many searches at once, here or on Slurm; one table"))
    add_bench(commands.add_parser("bench", help="time a kernel, or a network, against its rivals"))
    add_export(
        commands.add_parser("export", help="make tables, a page, or other tools' files of a benchmark")
    )
    add_compare(commands.add_parser("compare", help="is a revision slower than another?"))
    doctor = commands.add_parser("doctor", help="what this machine has and which kernels run on it")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    inspect = commands.add_parser("inspect", help="compile the GPU kernels without a GPU, and look at them")
    inspect.add_argument("--arch", choices=ARCHES, default="sm_90", help="(%(default)s)")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    add_gpu(commands.add_parser("gpu", help="check, tune and time the kernels on this machine's GPU"))
    add_tune(commands.add_parser("tune", help="find and keep the fastest launches for this machine's GPU"))
    return parser


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument("file", type=Path, help="a TOML file as of run, with lists to combine in [sweep]")
    sweep.add_argument("--data-dir", type=Path, help="folder of the full data sets")
    sweep.add_argument("--out", type=Path, default=Path("sparsekern-sweep"), help="(%(default)s)")
    sweep.add_argument("--engine", choices=("local", "slurm"), default="local", help="(%(default)s)")
    sweep.add_argument("--partition", help="of the Slurm cluster")
    sweep.add_argument("--jobs", type=positive, help="at most so many at a time (one for each CPU)")
    sweep.add_argument("--minutes", type=positive, default=1440, help="for each search (%(default)s)")


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "experiment", nargs="?", help="network of the zoo, or a TOML file that says all this (lenet300)"
    )
    run.add_argument("--rounds", type=positive, help="pruning rounds (12)")
    run.add_argument("--rate", type=float, help="share pruned a round (0.2)")
    run.add_argument("--rewind-to", type=natural, metavar="STEP", help="late rewinding to this step (0)")
    run.add_argument("--method", choices=METHODS, help="(iterative)")
    run.add_argument("--reset", choices=RESETS, help="what a round restarts from (weights)")
    run.add_argument("--controls", nargs="*", metavar="NAME", help="such as random, regroup:16x1 (reinit)")
    run.add_argument(
        "--sparse-from", type=share, metavar="SHARE", help="train layers this sparse on sparse kernels"
    )
    run.add_argument("--narrow", action="store_true", help="train a dense network of each winner's time too")
    shape = run.add_mutually_exclusive_group()
    shape.add_argument("--structure", choices=[*STRUCTURES, "both"], help="(both)")
    shape.add_argument(
        "--block", type=block, metavar="RxC", help="any other block, outputs x inputs, such as 8x1"
    )
    run.add_argument("--seed", type=natural, help="first seed (0)")
    run.add_argument("--seeds", type=seeds, help="how many seeds from there on (1)")
    run.add_argument("--data", help="data set of the zoo (fashion-mnist-6k)")
    run.add_argument("--data-dir", type=Path, help="folder of the full data sets")
    run.add_argument(
        "--out", type=Path, default=Path("sparsekern-run"), help="folder of the report (%(default)s)"
    )
    run.add_argument("--resume", action="store_true", help="go on with what an earlier run left in --out")
    run.add_argument("--batch", type=positive, help="test images in a timed pass (256)")
    run.add_argument("--iterations", type=positive, help="training steps a round, instead of the recipe's")
    run.add_argument("--device", default="cpu", help="where to train, such as cuda (%(default)s)")
    run.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="write its events there too")
    run.add_argument("--quiet", action="store_true", help="print the verdict and the report's path only")
