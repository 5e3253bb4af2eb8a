"""What `sparsekern bench linear` and `conv2d` share: options in, rows out as soon as they are known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sparsekern.bench import machine
from sparsekern.cli.bench import dlmc
from sparsekern.cli.bench.cases import Case
from sparsekern.cli.bench.measure import Result, Setting, measure
from sparsekern.cli.bench.records import Journal, about, check_outputs, open_journal
from sparsekern.cli.bench.rivals import missing
from sparsekern.cli.bench.table import break_evens, head_line, notes, row, table_head
from sparsekern.cli.progress import Bar, say
from sparsekern.cli.threads import torch_threads


class Budgeted(Protocol):
    """A preset of any op."""

    @property
    def budget_s(self) -> float:
        """How many seconds one case may take."""


@dataclass(frozen=True)
class Command:
    """The benchmark of one op: its cases are of class `kind`; `not_of_files` names the options that have no
    meaning for real masks."""

    presets: Mapping[str, Budgeted]
    kind: type[Case]
    rivals: Sequence[str]
    not_of_files: Sequence[str]
    cases: Callable[[argparse.Namespace], Sequence[Case]]
    of_files: Callable[[argparse.Namespace], Sequence[dlmc.Task]]


def bench(options: argparse.Namespace, command: Command) -> int:
    """The command. Returns 0; ValueError for options that make no sense, which is seen before anything is
    timed, and where sparsekern computes something wrong."""
    from_files = options.preset == "dlmc"
    _refuse_what_does_not_apply(options, command.not_of_files if from_files else ("data_dir", "limit"))
    tasks = command.of_files(options) if from_files else ()
    chosen = () if from_files else command.cases(options)
    check_outputs(options)
    with torch_threads(options.threads):
        setting, journal = _prepare(options, command)
        if from_files:
            wanted = (*command.kind.dense_rivals, *command.kind.csr_rivals, "sparsekern")
            setting = replace(setting, rivals=[rival for rival in setting.rivals if rival in wanted])
            dlmc.bench(tasks, setting, journal)
        else:
            bench_cases(chosen, setting, journal, lambda left: setting.budget_s)
        journal.close()
    return 0


def _refuse_what_does_not_apply(options: argparse.Namespace, wrong: Sequence[str]) -> None:
    for name in wrong:
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            why = "takes its sizes from files" if options.preset == "dlmc" else "reads no files"
            raise ValueError(f"{option}: not expected, as --preset {options.preset} {why}")


def _prepare(options: argparse.Namespace, command: Command) -> tuple[Setting, Journal]:
    rivals = [rival for rival in command.rivals if missing(rival) is None]
    budget_s = command.presets[options.preset].budget_s if options.budget is None else options.budget
    return look_at_machine(options, rivals, budget_s)


def look_at_machine(
    options: argparse.Namespace, rivals: Sequence[str], budget_s: float
) -> tuple[Setting, Journal]:
    """Measure the machine, and print its line."""
    from sparsekern.kernels import cpu

    here = machine.describe(cpu.isa())
    peak = cpu.fma_peak_gflops()
    setting = Setting(rivals, budget_s, options.threads, peak)
    say(head_line(here, setting) + "\n", sys.stdout)
    found = {"machine": here | {"fma_peak_gflops": peak}, "versions": machine.versions(), **machine.commit()}
    return setting, open_journal(options, found)


def bench_cases(
    chosen: Sequence[Case], setting: Setting, journal: Journal, budget_s: Callable[[int], float | None]
) -> int:
    """Time those that are not in the journal, and print them. Returns how many are left: `budget_s` says how
    long the next may be timed, given how many there still are, or None to stop."""
    left = [case for case in chosen if not journal.has(about(case), setting.rivals)]
    if len(left) < len(chosen):
        say(f"{len(chosen) - len(left)} of {len(chosen)} cases are in {journal.path}\n", sys.stdout)
    if left:
        say(table_head(setting.rivals, chosen[0].first_column), sys.stdout)
    results: list[Result] = []
    with Bar("timing", len(left), sys.stderr) as bar:
        for case in left:
            if (seconds := budget_s(len(left) - len(results))) is None:
                break
            result = measure(case, case.tensors(), replace(setting, budget_s=seconds))
            bar.say(row(result, setting.rivals), sys.stdout)
            bar.step()
            journal.write(result)
            results.append(result)
    for text in _below(results, setting) if results else ():
        say(text, sys.stdout)
    return len(left) - len(results)


def _below(results: list[Result], setting: Setting) -> Iterator[str]:
    """What stands under the table."""
    if points := list(break_evens(results)):
        yield "\nBreak-even with best dense, share of zeros:\n"
        yield from (f"- {point}" for point in points)
    yield ""
    yield from (f"- {note}" for note in notes(results, setting))
