"""`sparsekern run`: find tickets, swap their layers, prove the speed-up, write the report."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import torch

from sparsekern import zoo
from sparsekern.bench import machine
from sparsekern.bench.report import require_report_extra, write_report
from sparsekern.cli.analysis import analysis
from sparsekern.cli.joined import joined
from sparsekern.cli.narrow import width_of_equal_time
from sparsekern.cli.progress import Progress, TensorBoard, say
from sparsekern.cli.prove import Proof, prove
from sparsekern.cli.searches import search_all
from sparsekern.cli.study import Study, study_of
from sparsekern.cli.summary import control_entry, headline, round_entry, structure_entry, winning_round
from sparsekern.cli.threads import torch_threads
from sparsekern.tickets import MATCH_TOLERANCE, RoundResult, Search, SearchConfig, ranks, rehearse
from sparsekern.tickets.lab import draw


def run(options: argparse.Namespace) -> int:
    """The command: training and timing on one thread, so that its masks do not depend on the number of cores.

    Writes report.html, report.json and the winning tickets into `--out`; finished rounds are kept there for
    `--resume`. Returns 0 whatever the verdict; ValueError for settings that make no sense, which is seen
    before anything is trained, and for a swapped network that computes something else.
    """
    began = perf_counter()
    require_report_extra()
    with torch_threads(1), joined(options.device) as device:
        this = _prepare(options, device)
        searches = this.searches()
        if ranks.rank():
            return 0  # rank 0 proves and reports for all
        structures = [this.structure(name, found) for name, found in searches.items()]
        about = f"{this.study.task.model} on {this.study.task.data}"
        result = {
            **headline(structures, about, this.study.batch),
            "tolerance_points": MATCH_TOLERANCE,
            "structures": structures,
            "machine": _machine(),
            "versions": machine.versions() | machine.commit(),
            "config": _settings(this),
            "seeds": this.study.seeds,
            "command": shlex.join(["sparsekern", *options.arguments]),
            "seconds": round(perf_counter() - began, 1),
        }
    page = write_report(result, options.out)
    this.drop_old_tickets()
    this.say("")
    say(result["verdict"], sys.stdout)
    say(str(page), sys.stdout)
    return 0


@dataclass(frozen=True)
class _Run:
    """What all structures share."""

    options: argparse.Namespace
    data: zoo.Data
    study: Study
    device: str

    def say(self, line: str) -> None:
        if not self.options.quiet:
            say(line, sys.stdout)

    def structure(self, name: str, searches: Sequence[Search]) -> dict[str, Any]:
        """Prove every round, save the winning tickets."""
        self.say(f"\n{name}, block {searches[0].config.block}")
        winner = winning_round(searches)
        for found in searches:
            found.ticket(winner).save(self.ticket_path(name, found.config.seed))
        self.say(_HEAD)
        proofs = []
        for index in range(len(searches[0].rounds)):
            proofs.append(self._proof(name, searches[0].rounds[index]))
            self.say(
                _row(round_entry(searches, index, proofs[-1])) + (" <- winner" if index == winner else "")
            )
        self.say(f"\nthe winning round, layer by layer\n{proofs[winner].swap}")
        entry = structure_entry(name, searches, proofs, self.data.test_y)
        told = analysis(searches, self.data, winner)
        self.say("\n" + _told(told))
        if self.options.narrow:
            entry["narrow"] = self._narrow(searches, winner)
        if regrouped := self._regrouped(name, searches):
            entry["regrouped"] = regrouped
        return entry | told

    def _regrouped(self, name: str, searches: Sequence[Search]) -> dict[str, Any]:
        """The rounds of each control that put the ticket into blocks, proved like the ticket's own."""
        found: dict[str, list[dict[str, Any]]] = {}
        for control in (control for control in searches[0].controls if control.startswith("regroup:")):
            self.say(f"\n{name}, {control}\n{_HEAD}")
            found[control] = []
            for results in zip(*(search.controls[control] for search in searches), strict=True):
                proof = self._proof(name, results[0])
                found[control].append(control_entry(results, proof))
                self.say(_row(found[control][-1]))
        return found

    def _narrow(self, searches: Sequence[Search], winner: int) -> dict[str, Any]:
        """The dense network of the winner's time: its width, and its accuracy from the same seeds."""
        config = searches[0].config
        ticket = draw(config, 1.0, data=self.data)
        ticket.load_state_dict(searches[0].rounds[winner].state)
        made = partial(draw, config, data=self.data)
        width = width_of_equal_time(ticket, made, self.data.test_x[: self.study.batch])
        control = f"narrow:{width:g}"
        configs = [replace(found.config, controls=(control,)) for found in searches]
        trained = [found.controls[control][0] for found in self._found(configs, self.options.out / "rounds")]
        accuracies = [result.test_accuracy for result in trained]
        self.say(f"a dense network of the winner's time has width {width:g}: {100 * mean(accuracies):.2f} %")
        return {"width": width, "accuracy": mean(accuracies), "seeds": accuracies}

    def _proof(self, name: str, round_: RoundResult) -> Proof:
        config = self.study.configs[name][0]
        model = draw(config, 1.0, data=self.data)
        model.load_state_dict(round_.state)
        try:
            return prove(model, self.data.test_x, self.study.batch, config.seed)
        except RuntimeError as error:
            raise ValueError(
                f"{name}, round {round_.round}: {error}; --resume trains nothing again"
            ) from error

    def ticket_path(self, name: str, seed: int) -> Path:
        return Path(self.options.out) / f"ticket-{name}-seed{seed}.safetensors"

    def drop_old_tickets(self) -> None:
        """Remove tickets of an earlier run that are not of this one: the report no longer tells of them."""
        own = {self.ticket_path(name, seed) for name in self.study.configs for seed in self.study.seeds}
        for path in set(self.options.out.glob("ticket-*-seed*.safetensors")) - own:
            path.unlink()

    def searches(self) -> dict[str, list[Search]]:
        """Every search, by structure; without `--resume` what an earlier run left is dropped first."""
        kept = self.options.out / "rounds"
        configs = [config for of_structure in self.study.configs.values() for config in of_structure]
        self._settle(configs, kept)
        first = configs[0]
        self.say(f"{', '.join(self.study.configs)}: {first.rounds} rounds each, seeds {self.study.seeds}")
        found = iter(self._found(configs, kept))
        return {
            name: [next(found) for _ in of_structure] for name, of_structure in self.study.configs.items()
        }

    def _settle(self, configs: Sequence[SearchConfig], kept: Path) -> None:
        """Drop finished rounds, or say that none of those there can be taken."""
        if ranks.rank():
            return  # files are the business of rank 0
        own = [kept / config.digest for config in configs]
        if not self.options.resume:
            for file in (file for folder in own for file in folder.glob("*")):
                file.unlink()
        elif kept.is_dir() and any(kept.iterdir()) and not any(folder.is_dir() for folder in own):
            self.say(f"nothing to resume: the rounds in {kept} are of other settings; all are trained anew")

    def _found(self, configs: Sequence[SearchConfig], kept: Path) -> list[Search]:
        runs = sum(config.runs for config in configs)
        heard: list[Any] = []
        if not (self.options.quiet or ranks.rank()):
            heard.append(Progress("finding tickets", runs, configs[0].task.recipe.iterations, sys.stderr))
        if self.options.tensorboard is not None and not ranks.rank():
            heard.append(TensorBoard(self.options.tensorboard))

        def watch(name: str, event: dict[str, Any]) -> None:
            for one in heard:
                one(name, event)

        try:
            return search_all(configs, kept, watch, self.device)
        finally:
            for one in heard:
                one.close()


def _prepare(options: argparse.Namespace, device: str) -> _Run:
    """Everything that can be wrong with the options is found here, before anything that takes long."""
    from sparsekern.kernels import cpu

    if options.data_dir is not None and not options.data_dir.is_dir():
        raise ValueError(f"--data-dir {options.data_dir}: expected a folder, there is none")
    study = study_of(options)
    _require_device(device)
    if options.tensorboard is not None and find_spec("tensorboard") is None:
        raise ValueError('--tensorboard: the package is not installed; pip install "sparsekern[tensorboard]"')
    if options.narrow and ranks.world() > 1:
        raise ValueError("--narrow: one process is expected, as the other ranks do not wait for the timing")
    data = zoo.dataset(study.task.data, study.task.data_dir)
    if study.batch > len(data.test_y):
        raise ValueError(f"--batch {study.batch}: {data.name} has {len(data.test_y)} test images")
    for of_structure in study.configs.values():
        rehearse(of_structure[0])
        if options.narrow:
            draw(of_structure[0], 0.5, data=data)  # it may have no widths
    cpu.isa()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=options.out):
        pass
    return _Run(options, data, study, device)


def _told(found: Mapping[str, Any]) -> str:
    lines = [
        f"search: {found['seconds']['search']:.0f} s of training, without controls",
        *found.get("ranges", ()),
    ]
    if unstable := found.get("instability_points"):
        lines.append(f"instability by round, points: {' '.join(f'{points:.2f}' for points in unstable)}")
    return "\n".join(lines)


def _machine() -> dict[str, object]:
    from sparsekern.kernels import cpu

    return machine.describe(cpu.isa()) | machine.speeds(cpu.fma_peak_gflops)


def _require_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device}: a device of this machine is expected: {reason}") from error


def _settings(run: _Run) -> dict[str, object]:
    """The configuration that all searches have in common."""
    config = asdict(next(iter(run.study.configs.values()))[0])
    return {name: value for name, value in config.items() if name not in ("block", "seed")}


_HEAD = (
    "round  sparsity  accuracy  reinit  torch us   best us  sparse us  against torch     against best dense"
)


def _row(entry: Mapping[str, Any]) -> str:
    reinit = f"{100 * entry['accuracy_reinit']:6.2f}" if "accuracy_reinit" in entry else " " * 6
    times = "  ".join(f"{entry[f'time_{who}_us']:8.1f}" for who in ("torch", "best_dense", "sparse"))
    ratios = (_ratio(entry[f"speedup_vs_{rival}"]) for rival in ("torch", "best_dense"))
    return (
        f"{entry['round']:5}  {100 * entry['sparsity']:6.2f} %  {100 * entry['accuracy']:6.2f} %  {reinit}  "
        f"{times}   {'  '.join(ratios)}"
    )


def _ratio(speedup: Mapping[str, float]) -> str:
    return f"{speedup['value']:.2f}x ({speedup['low']:.2f}-{speedup['high']:.2f})"
