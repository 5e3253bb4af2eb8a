"""The command line: `sparsekern run` finds, swaps and proves; `sparsekern bench` times kernels against their
rivals; `sparsekern doctor` says what the machine has; `sparsekern inspect` what GPU kernels are compiled to;
`sparsekern gpu` checks, tunes and times them on a GPU, `sparsekern tune` tunes only.

Exit code 0 when the command did its work (whatever the verdict), 1 when `inspect` found a fault; with one
line on stderr, 2 for bad input and for what went wrong on the way, 130 when it was stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from sparsekern.cli.arguments import Parser, block, natural, positive, seeds
from sparsekern.cli.bench.options import add_bench
from sparsekern.cli.gpu.options import add_gpu, add_tune
from sparsekern.cli.progress import say

STRUCTURES = {"unstructured": (1, 1), "16x1": (16, 1)}
ARCHES = ("sm_80", "sm_90", "sm_100")


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
    command = import_module(f"sparsekern.cli.bench.{options.op}")
    done: int = getattr(command, f"bench_{options.op}")(options)
    return done


def _doctor(options: argparse.Namespace) -> int:
    from sparsekern.cli.doctor import doctor

    return doctor(options)


def _inspect(options: argparse.Namespace) -> int:
    from sparsekern.cli.inspect import inspect

    return inspect(options)


def _gpu(options: argparse.Namespace) -> int:
    from sparsekern.cli.gpu.command import gpu

    return gpu(options)


def _tune(options: argparse.Namespace) -> int:
    from sparsekern.cli.gpu.tune import tune_command

    return tune_command(options)


_COMMANDS = {
    "run": _run,
    "bench": _bench,
    "doctor": _doctor,
    "inspect": _inspect,
    "gpu": _gpu,
    "tune": _tune,
}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sparsekern", description="Find winning tickets, swap their layers, prove the speed-up."
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    _add_run(commands.add_parser("run", help="find a ticket, swap its layers, prove it in a report"))
    add_bench(commands.add_parser("bench", help="time a kernel, or a network, against its rivals"))
    doctor = commands.add_parser("doctor", help="what this machine has and which kernels run on it")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    inspect = commands.add_parser("inspect", help="compile the GPU kernels without a GPU, and look at them")
    inspect.add_argument("--arch", choices=ARCHES, default="sm_90", help="(%(default)s)")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    add_gpu(commands.add_parser("gpu", help="check, tune and time the kernels on this machine's GPU"))
    add_tune(commands.add_parser("tune", help="find and keep the fastest launches for this machine's GPU"))
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("experiment", nargs="?", default="lenet300", help="network of the zoo (%(default)s)")
    run.add_argument("--rounds", type=positive, default=12, help="pruning rounds (%(default)s)")
    run.add_argument("--rate", type=float, default=0.2, help="share pruned a round (%(default)s)")
    shape = run.add_mutually_exclusive_group()
    shape.add_argument("--structure", choices=[*STRUCTURES, "both"], default="both", help="(%(default)s)")
    shape.add_argument(
        "--block", type=block, metavar="RxC", help="any other block, outputs x inputs, such as 8x1"
    )
    run.add_argument("--seed", type=natural, default=0, help="first seed (%(default)s)")
    run.add_argument("--seeds", type=seeds, default=1, help="how many seeds from there on (%(default)s)")
    run.add_argument("--data", default="fashion-mnist-6k", help="data set of the zoo (%(default)s)")
    run.add_argument("--data-dir", type=Path, help="folder of the full data sets")
    run.add_argument(
        "--out", type=Path, default=Path("sparsekern-run"), help="folder of the report (%(default)s)"
    )
    run.add_argument("--resume", action="store_true", help="go on with what an earlier run left in --out")
    run.add_argument("--batch", type=positive, default=256, help="test images in a timed pass (%(default)s)")
    run.add_argument("--iterations", type=positive, help="training steps a round, instead of the recipe's")
    run.add_argument("--quiet", action="store_true", help="print the verdict and the report's path only")
