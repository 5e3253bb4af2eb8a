"""`sparsekern run`: find tickets, swap their layers, prove the speed-up, write the report."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from sparsekern import zoo
from sparsekern.bench import machine
from sparsekern.bench.report import require_report_extra, write_report
from sparsekern.cli import STRUCTURES
from sparsekern.cli.progress import Progress, say
from sparsekern.cli.prove import Proof, prove
from sparsekern.cli.searches import search_all
from sparsekern.cli.summary import headline, round_entry, structure_entry, winning_round
from sparsekern.cli.threads import torch_threads
from sparsekern.tickets import MATCH_TOLERANCE, RoundResult, Search, SearchConfig, rehearse, task


def run(options: argparse.Namespace) -> int:
    """The command: training and timing on one thread, so that its masks do not depend on the number of cores.

    Writes report.html, report.json and the winning tickets into `--out`; finished rounds are kept there for
    `--resume`. Returns 0 whatever the verdict; ValueError for settings that make no sense, which is seen
    before anything is trained, and for a swapped network that computes something else.
    """
    began = perf_counter()
    require_report_extra()
    with torch_threads(1):
        study = _prepare(options)
        structures = [study.structure(name, searches) for name, searches in study.searches().items()]
        result = {
            **headline(structures, f"{options.experiment} on {options.data}", options.batch),
            "tolerance_points": MATCH_TOLERANCE,
            "structures": structures,
            "machine": _machine(),
            "versions": machine.versions() | machine.commit(),
            "config": _settings(study),
            "seeds": study.seeds,
            "command": shlex.join(["sparsekern", *options.arguments]),
            "seconds": round(perf_counter() - began, 1),
        }
    page = write_report(result, options.out)
    study.drop_old_tickets()
    study.say("")
    say(result["verdict"], sys.stdout)
    say(str(page), sys.stdout)
    return 0


@dataclass(frozen=True)
class _Study:
    """What all structures share. `configs` holds one search for each seed, by the structure's name."""

    options: argparse.Namespace
    data: zoo.Data
    configs: Mapping[str, Sequence[SearchConfig]]

    @property
    def seeds(self) -> list[int]:
        return [self.options.seed + offset for offset in range(self.options.seeds)]

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
        return structure_entry(name, searches, proofs, self.data.test_y)

    def _proof(self, name: str, round_: RoundResult) -> Proof:
        model = zoo.model(self.options.experiment)
        model.load_state_dict(round_.state)
        try:
            return prove(model, self.data.test_x, self.options.batch, self.options.seed)
        except RuntimeError as error:
            raise ValueError(
                f"{name}, round {round_.round}: {error}; --resume trains nothing again"
            ) from error

    def ticket_path(self, name: str, seed: int) -> Path:
        return Path(self.options.out) / f"ticket-{name}-seed{seed}.safetensors"

    def drop_old_tickets(self) -> None:
        """Remove tickets of an earlier run that are not of this one: the report no longer tells of them."""
        own = {self.ticket_path(name, seed) for name in self.configs for seed in self.seeds}
        for path in set(self.options.out.glob("ticket-*-seed*.safetensors")) - own:
            path.unlink()

    def searches(self) -> dict[str, list[Search]]:
        """Every search, by structure; without `--resume` what an earlier run left is dropped first."""
        kept = self.options.out / "rounds"
        configs = [config for of_structure in self.configs.values() for config in of_structure]
        self._settle(configs, kept)
        first = configs[0]
        self.say(f"{', '.join(self.configs)}: {first.rounds} rounds each, seeds {self.seeds}")
        found = iter(self._found(configs, kept))
        return {name: [next(found) for _ in of_structure] for name, of_structure in self.configs.items()}

    def _settle(self, configs: Sequence[SearchConfig], kept: Path) -> None:
        """Drop finished rounds, or say that none of those there can be taken."""
        own = [kept / config.digest for config in configs]
        if not self.options.resume:
            for file in (file for folder in own for file in folder.glob("*.safetensors")):
                file.unlink()
        elif kept.is_dir() and any(kept.iterdir()) and not any(folder.is_dir() for folder in own):
            self.say(f"nothing to resume: the rounds in {kept} are of other settings; all are trained anew")

    def _found(self, configs: Sequence[SearchConfig], kept: Path) -> list[Search]:
        if self.options.quiet:
            return search_all(configs, kept, lambda name, event: None)
        runs = sum(1 + config.rounds * (1 + len(config.controls)) for config in configs)
        progress = Progress("finding tickets", runs, configs[0].task.recipe.iterations, sys.stderr)
        try:
            return search_all(configs, kept, progress)
        finally:
            progress.close()


def _prepare(options: argparse.Namespace) -> _Study:
    """Everything that can be wrong with the options is found here, before anything that takes long."""
    from sparsekern.kernels import cpu

    if options.data_dir is not None and not options.data_dir.is_dir():
        raise ValueError(f"--data-dir {options.data_dir}: expected a folder, there is none")
    override = {} if options.iterations is None else {"iterations": options.iterations}
    chosen = task(options.experiment, options.data, options.data_dir, **override)
    shapes = {
        name: tuple(
            SearchConfig(chosen, options.rounds, options.rate, block=block, seed=options.seed + offset)
            for offset in range(options.seeds)
        )
        for name, block in _structures(options).items()
    }
    data = zoo.dataset(chosen.data, chosen.data_dir)
    if options.batch > len(data.test_y):
        raise ValueError(f"--batch {options.batch}: {data.name} has {len(data.test_y)} test images")
    for of_structure in shapes.values():
        rehearse(of_structure[0])
    cpu.isa()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=options.out):
        pass
    return _Study(options, data, shapes)


def _structures(options: argparse.Namespace) -> dict[str, tuple[int, int]]:
    if options.block is not None:
        return {"x".join(map(str, options.block)): options.block}
    return STRUCTURES if options.structure == "both" else {options.structure: STRUCTURES[options.structure]}


def _machine() -> dict[str, object]:
    from sparsekern.kernels import cpu

    return machine.describe(cpu.isa()) | machine.speeds(cpu.fma_peak_gflops)


def _settings(study: _Study) -> dict[str, object]:
    """The configuration that all searches have in common."""
    config = asdict(next(iter(study.configs.values()))[0])
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
