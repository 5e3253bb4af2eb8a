"""`sparsekern bench linear`: the linear kernels against their rivals, a row as soon as it is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from sparsekern.bench import machine
from sparsekern.cli.bench import dlmc
from sparsekern.cli.bench.cases import Case, cases
from sparsekern.cli.bench.measure import Result, Setting, measure
from sparsekern.cli.bench.presets import PRESETS
from sparsekern.cli.bench.records import Journal
from sparsekern.cli.bench.rivals import RIVALS, missing
from sparsekern.cli.bench.table import break_evens, head_line, notes, row, table_head
from sparsekern.cli.progress import Bar, say
from sparsekern.cli.threads import torch_threads

SIZES = {"shape": "shapes", "block": "blocks", "batch": "batches", "sparsity": "sparsities"}
"""Options that replace what a preset's grids say, and the fields of Grid that they replace."""


def bench_linear(options: argparse.Namespace) -> int:
    """The command. Returns 0; ValueError for options that make no sense, which is seen before anything is
    timed, and where sparsekern computes something wrong."""
    _refuse_what_does_not_apply(options)
    layers = dlmc.layers(options.data_dir, options.limit) if options.preset == "dlmc" else []
    chosen = [] if layers else _cases(options)
    if options.json is not None:
        options.json.open("a").close()  # that it can be written is known now, not after the first case
    with torch_threads(options.threads):
        setting, journal = _prepare(options)
        if layers:
            dlmc.bench(layers, options.dtype or "float32", setting, journal)
        else:
            _bench(chosen, setting, journal)
    return 0


def _refuse_what_does_not_apply(options: argparse.Namespace) -> None:
    of_files = options.preset == "dlmc"
    wrong = SIZES if of_files else ("data_dir", "limit")
    for name in wrong:
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            why = "takes its sizes from files" if of_files else "reads no files"
            raise ValueError(f"{option}: not expected, as --preset {options.preset} {why}")


def _cases(options: argparse.Namespace) -> list[Case]:
    given = {field: tuple(getattr(options, name) or ()) for name, field in SIZES.items()}
    given = {field: value for field, value in given.items() if value}
    dtype = {} if options.dtype is None else {"dtype": options.dtype}
    return cases(PRESETS[options.preset], {**given, **dtype})


def _prepare(options: argparse.Namespace) -> tuple[Setting, Journal]:
    """Look at the machine, and print its line."""
    from sparsekern.kernels import cpu

    here = machine.describe(cpu.isa())
    peak = cpu.fma_peak_gflops()
    rivals = [rival for rival in RIVALS if missing(rival) is None]
    budget_s = PRESETS[options.preset].budget_s if options.budget is None else options.budget
    setting = Setting(rivals, budget_s, options.threads, peak)
    say(head_line(here, setting) + "\n", sys.stdout)
    found = {"machine": here | {"fma_peak_gflops": peak}, "versions": machine.versions(), **machine.commit()}
    return setting, Journal(options.json, options.threads, found)


def _bench(chosen: list[Case], setting: Setting, journal: Journal) -> None:
    say(table_head(setting.rivals), sys.stdout)
    results: list[Result] = []
    with Bar("timing", len(chosen), sys.stderr) as bar:
        for case in chosen:
            result = measure(case, case.tensors(), setting)
            bar.say(row(result, setting.rivals), sys.stdout)
            bar.step()
            journal.write(result)
            results.append(result)
    for text in _below(results, setting):
        say(text, sys.stdout)


def _below(results: list[Result], setting: Setting) -> Iterator[str]:
    """What stands under the table."""
    if points := list(break_evens(results)):
        yield "\nBreak-even with best dense, share of zeros:\n"
        yield from (f"- {point}" for point in points)
    yield ""
    yield from (f"- {note}" for note in notes(results, setting))
