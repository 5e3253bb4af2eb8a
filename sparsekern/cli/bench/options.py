"""The options of `sparsekern bench` and `sparsekern export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsekern.bench.export import EXPORTS
from sparsekern.cli.arguments import (
    Parser,
    block,
    channels,
    minutes,
    natural,
    positive,
    seconds,
    shape,
    share,
    tensor_shape,
)
from sparsekern.cli.bench.presets import DTYPES, INT8, NETWORKS, PRESETS
from sparsekern.cli.bench.presets_conv import MEMORY_FORMATS, PRESETS_CONV2D


def add_bench(bench: argparse.ArgumentParser) -> None:
    """A command for each op, and one for whole networks."""
    kinds = bench.add_subparsers(dest="op", metavar="kernel", required=True, parser_class=Parser)
    _add_linear(kinds.add_parser("linear", help="y = x W^T + b with a sparse W"))
    _add_conv2d(kinds.add_parser("conv2d", help="2-d convolution with a sparse weight"))
    _add_network(kinds.add_parser("network", help="whole networks of the papers with random masks"))
    _add_model(kinds.add_parser("model", help="any network with zeros in its weights"))
    _add_full(kinds.add_parser("full", help="all of it in the minutes there are, to be resumed"))
    _add_ticket(kinds.add_parser("ticket", help="the network that a ticket is of"))


def _add_linear(linear: argparse.ArgumentParser) -> None:
    linear.add_argument("--preset", choices=PRESETS, default="quick", help="what is timed (%(default)s)")
    sizes = linear.add_argument_group("instead of what the preset says")
    sizes.add_argument("--shape", type=shape, nargs="+", metavar="NxK", help="outputs x inputs")
    sizes.add_argument("--batch", type=positive, nargs="+", metavar="ROWS", help="rows of x")
    sizes.add_argument("--dtype", choices=(*DTYPES, INT8), help="of weight and x")
    _add_sparsity(sizes)
    _add_rest(linear)


def _add_conv2d(conv2d: argparse.ArgumentParser) -> None:
    conv2d.add_argument(
        "--preset", choices=PRESETS_CONV2D, default="quick", help="what is timed (%(default)s)"
    )
    sizes = conv2d.add_argument_group("instead of what the preset says")
    sizes.add_argument("--channels", type=channels, nargs="+", metavar="IxO", help="in x out")
    for name, kind, words in (
        ("kernel", positive, "its side, 3 is 3x3"),
        ("map", positive, "side of the square map that comes in"),
        ("stride", positive, "of both directions"),
        ("padding", natural, "of zeros on all sides; by default what keeps the map's size"),
        ("dilation", positive, "of both directions"),
    ):
        sizes.add_argument(f"--{name}", type=kind, nargs="+", metavar="N", help=words)
    sizes.add_argument("--batch", type=positive, nargs="+", metavar="N", help="images")
    sizes.add_argument("--dtype", choices=DTYPES, help="of weight and x")
    sizes.add_argument("--memory-format", choices=MEMORY_FORMATS, help="of weight and x")
    _add_sparsity(sizes)
    _add_rest(conv2d)


def _add_network(network: argparse.ArgumentParser) -> None:
    network.add_argument(
        "name", nargs="*", metavar="NAME", help=f"of the zoo; by default {', '.join(NETWORKS)}"
    )
    network.add_argument("--sparsity", type=share, default=0.9, help="of every weight (%(default)s)")
    network.add_argument("--block", type=block, default=(1, 1), metavar="RxC", help="of the masks (1x1)")
    network.add_argument("--batch", type=positive, nargs="+", default=[1, 32], help="images (1 32)")
    network.add_argument("--budget", type=seconds, default=3.0, help="for each network (%(default)s s)")
    _add_run(network)


def _add_model(model: argparse.ArgumentParser) -> None:
    model.add_argument("path", metavar="WHAT", help="module:factory, a ticket, or a .safetensors state dict")
    model.add_argument("--model", metavar="module:factory", help="makes the network of a state dict")
    model.add_argument(
        "--input",
        type=tensor_shape,
        nargs="+",
        required=True,
        metavar="SHAPE",
        help="of each argument, batch first: 1x3x224x224, 8x128:int64",
    )
    model.add_argument("--batch", type=positive, nargs="+", metavar="N", help="instead of the first size")
    _add_whole(model)


def _add_ticket(ticket: argparse.ArgumentParser) -> None:
    ticket.add_argument("path", type=Path, metavar="FILE.safetensors", help="what `sparsekern run` left")
    ticket.add_argument("--batch", type=positive, nargs="+", default=[1, 32], help="images (1 32)")
    _add_whole(ticket)


def _add_full(full: argparse.ArgumentParser) -> None:
    full.add_argument("--minutes", type=minutes, default=20.0, help="it may take (%(default)s)")
    full.add_argument("--ticket", type=Path, metavar="FILE", help="a ticket of `sparsekern run`, timed too")
    _add_run(full)


def _add_whole(network: argparse.ArgumentParser) -> None:
    network.add_argument("--block", type=block, metavar="RxC", help="to swap in, instead of the best one")
    network.add_argument("--budget", type=seconds, default=5.0, help="to time in (%(default)s s)")
    _add_run(network)


def _add_sparsity(sizes: argparse._ArgumentGroup) -> None:
    sizes.add_argument("--sparsity", type=share, nargs="+", metavar="SHARE", help="of zeros: 0.8 0.9")
    sizes.add_argument("--block", type=block, nargs="+", metavar="RxC", help="outputs x inputs")
    sizes.add_argument("--budget", type=seconds, metavar="SECONDS", help="for each case")


def _add_rest(op: argparse.ArgumentParser) -> None:
    _add_run(op)
    masks = op.add_argument_group("with --preset dlmc")
    masks.add_argument("--data-dir", type=Path, help="folder of the Deep Learning Matrix Collection")
    masks.add_argument("--limit", type=positive, metavar="K", help="only K layers of each file")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=positive, default=1, help="torch threads (%(default)s)")
    files = command.add_argument_group(
        "what is kept",
        "csv, markdown and html for people; pytest-benchmark, asv (a folder) and gha, which is "
        "github-action-benchmark, for tools; `sparsekern export` makes each of them from the lines of --json",
    )
    files.add_argument("--json", type=Path, metavar="FILE", help="append a line per rival and case")
    files.add_argument("--resume", action="store_true", help="leave out the cases that --json holds already")
    for name in EXPORTS:
        files.add_argument(f"--{name}", dest=destination(name), type=Path, metavar="FILE")


def destination(name: str) -> str:
    """Where argparse keeps the option of an export."""
    return f"export_{name.replace('-', '_')}"


def add_export(export: argparse.ArgumentParser) -> None:
    """The command that makes something else of the lines of a benchmark."""
    export.add_argument("results", type=Path, metavar="RESULTS.jsonl", help="what bench --json wrote")
    export.add_argument("--to", choices=EXPORTS, required=True, help="what it becomes")
    export.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="where to; printed without it (asv: a folder)"
    )
