"""The options of `sparsekern compare`. No torch is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsekern.cli.arguments import natural, positive, seconds, share
from sparsekern.cli.compare.cases import CASES, PRESETS

ABOUT = """\
BASE and HEAD are two revisions of the git repository in this directory, or two files that
`sparsekern bench linear|conv2d --json` wrote. Revisions are built, each in a folder of its own, and run by
fresh processes in turns (Linux and macOS). Files say less: they were not measured together.

faster, slower   the 99 % interval of time head / time base lies beyond the margin, the effect is larger than
                 the floor (the same estimate between processes of the same code); so it is of the first
                 run and a second with new processes together, and neither contradicts
same             the interval lies within the margin
undecided        anything else, when the time is used up

exit code        0 same or faster, 1 something is slower, 2 undecided, or bad input with a line on stderr
"""


def add_compare(compare: argparse.ArgumentParser) -> None:
    """Two sides, what is timed, when it is enough."""
    compare.formatter_class = argparse.RawDescriptionHelpFormatter
    compare.description = ABOUT
    compare.add_argument("base", metavar="BASE", help="revision, or JSON file")
    compare.add_argument("head", metavar="HEAD", help="revision, or JSON file")
    compare.add_argument("--margin", type=share, default=0.015, help="a change is more (%(default)s)")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write the outcome; a new file")
    files = compare.add_argument_group("with files")
    files.add_argument("--force", action="store_true", help="though they come from different machines")
    timed = compare.add_argument_group("with revisions")
    chosen = timed.add_mutually_exclusive_group()
    chosen.add_argument("--preset", choices=PRESETS, default="quick", help="what is timed (%(default)s)")
    chosen.add_argument("--cases", choices=CASES, nargs="+", metavar="CASE", help=", ".join(CASES))
    timed.add_argument(
        "--counts",
        action="store_true",
        help="count instructions under valgrind instead of timing; margin 0.01",
    )
    timed.add_argument("--budget", type=seconds, default=600.0, help="seconds of timing (%(default)g)")
    timed.add_argument("--rounds", type=positive, default=1000, help="at most, of each run (%(default)s)")
    timed.add_argument("--seed", type=natural, default=0, help="of orders and places (%(default)s)")
    timed.add_argument("--cache", type=Path, help="folder of builds (sparsekern/compare in the user's cache)")
