"""Iterative magnitude pruning in whole rounds: train, prune, rewind, repeat; with controls, and resumable.

Frankle & Carbin 2019, arXiv 1803.03635, section 2: each round trains from θ_k with a fresh optimizer and a
fresh data order, drops the weights that are smallest after the last iteration, and resets the survivors.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.bench.atomic import LEFTOVERS
from sparsekern.masks import maskable
from sparsekern.prune import next_masks, output_rates
from sparsekern.tickets.config import SearchConfig
from sparsekern.tickets.matching import qualifies
from sparsekern.tickets.results import RoundResult, alive_share, load_result, save_result
from sparsekern.tickets.ticket import Ticket
from sparsekern.tickets.training import CurvePoint, Progress, State, copy_state, steps, stream, train

# What a stream of random numbers is for; part of its key, so no two uses share one.
INITIAL, ORDER, REINITIAL = 0, 1, 2
TICKET = "ticket"


@dataclass(frozen=True)
class Search:
    """A finished search: `rounds[0]` is the dense network, `controls[name]` starts with round 1.

    `rewind` is θ_k, the state from which every pruned round started.
    """

    config: SearchConfig
    rewind: State
    rounds: tuple[RoundResult, ...]
    controls: dict[str, tuple[RoundResult, ...]]

    @property
    def dense(self) -> RoundResult:
        """Round 0, the network without a mask."""
        return self.rounds[0]

    @property
    def matched(self) -> bool:
        """Whether any pruned round is not below the dense validation accuracy."""
        return any(self._matches(result) for result in self.rounds[1:])

    def _matches(self, result: RoundResult) -> bool:
        return qualifies(100 * (result.val_accuracy - self.dense.val_accuracy))

    def winner(self) -> RoundResult:
        """The sparsest round that matches the dense network in validation accuracy at early stop.

        If none does (`matched` is False), the one with the best validation accuracy. The test part is never
        asked. ValueError if there is no pruned round.
        """
        pruned = self.rounds[1:]
        if not pruned:
            raise ValueError("a search of at least one pruned round is expected, got rounds=0")
        matching = [result for result in pruned if self._matches(result)]
        if matching:
            return matching[-1]
        return max(pruned, key=lambda result: (result.val_accuracy, result.round))

    def ticket(self, round_index: int) -> Ticket:
        """The ticket of one round; ValueError if there is no such round."""
        if not 0 <= round_index < len(self.rounds):
            raise ValueError(f"round must be in 0 … {len(self.rounds) - 1}, got {round_index!r}")
        result = self.rounds[round_index]
        return Ticket(
            masks=result.masks,
            rewind=self.rewind,
            trained=result.state,
            seed=self.config.seed,
            config=json.loads(self.config.to_json()),
            results={**_figures(result), "dense": _figures(self.dense)},
        )

    def __str__(self) -> str:
        lines = ["round  sparsity  val acc  test acc  early stop  " + "  ".join(self.controls)]
        for result in self.rounds:
            controls = [self.controls[name][result.round - 1] for name in self.controls if result.round]
            lines.append(
                f"{result.round:>5}  {result.sparsity:>8.2%}  {result.val_accuracy:>7.2%}  "
                f"{result.test_accuracy:>8.2%}  {result.early_stop_step:>10,}  "
                + "  ".join(f"{control.test_accuracy:.2%}" for control in controls)
            )
        return "\n".join(lines)


def _figures(result: RoundResult) -> dict[str, object]:
    names = ("round", "sparsity", "early_stop_step", "val_accuracy", "test_accuracy", "test_loss")
    return {name: getattr(result, name) for name in names}


def rewind_point(config: SearchConfig, data: zoo.Data) -> tuple[State, State]:
    """(θ_0, θ_k): the initialisation, and it after the first k = `rewind_to` iterations of the dense run."""
    model = zoo.model(config.task.model, stream(config.seed, INITIAL))
    initial = copy_state(model)
    if config.rewind_to:
        dense_run = steps(model, {}, data, config.task.recipe, (config.seed, ORDER, 0))
        next(done for done in dense_run if done == config.rewind_to)
    return initial, copy_state(model)


def shrink(config: SearchConfig, final: State, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks after a round with `masks` that ended in `final`: the smallest magnitudes dropped."""
    return next_masks(
        {name: final[name] for name in masks},
        masks,
        output_rates(list(masks), config.rate, config.rate / 2),
        block=config.block,
        scope=config.scope,
    )


def rehearse(config: SearchConfig) -> None:
    """Take all rounds with untrained weights: in a second, the settings that a search would stumble over.

    ValueError if there is no pruned round, a layer would be left without a block, or the last round would
    drop nothing. Which weights go depends on training, but how many go hardly does: where blocks do not
    divide a layer, a block of its ragged edge counts less than others.
    """
    if config.rounds == 0:
        raise ValueError("a search of at least one pruned round is expected, got rounds=0")
    model = zoo.model(config.task.model, stream(config.seed, INITIAL))
    weights, masks = copy_state(model), full_masks(model)
    for index in range(1, config.rounds + 1):
        before = masks
        try:
            masks = shrink(config, weights, before)
        except ValueError as error:
            raise ValueError(f"round {index} of {config.rounds}: {error}") from error
    if alive_share(masks) == alive_share(before):
        raise ValueError(
            f"round {config.rounds} of {config.rounds} would drop nothing with rate {config.rate} and block "
            f"{config.block}: a higher rate, a smaller block or fewer rounds are expected"
        )


def full_masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks of the dense network: everything is alive."""
    return {
        f"{name}.weight": torch.ones_like(cast(Tensor, layer.weight), dtype=torch.bool)
        for name, layer in maskable(model).items()
    }


def search(
    config: SearchConfig, *, out: str | Path | None = None, progress: Progress | None = None
) -> Search:
    """Find tickets: the dense network, then `config.rounds` rounds and their controls.

    out: a folder; every finished run is kept in `out/<config.digest>`, and what is there already is not run
    again. A file there that cannot be trusted is reported by a RuntimeWarning and its run repeated. On the
    same machine with the same number of threads, a resumed search is bit for bit the uninterrupted one.

    progress: called with a dict for each event: "event" ("start", "eval" or "done"), "kind", "round" and
    "sparsity"; with "start" also "iterations"; with "eval" the fields of CurvePoint; with "done"
    "val_accuracy", "test_accuracy", "seconds" and "resumed".

    ValueError for data that cannot be found, a block that leaves a layer empty, or training that diverges.
    """
    data = zoo.dataset(config.task.data, config.task.data_dir)
    folder = None if out is None else Path(out) / config.digest
    for leftover in () if folder is None else folder.glob(LEFTOVERS):
        leftover.unlink(missing_ok=True)
    lab = _Lab(config, data, folder, progress)
    initial, rewind = rewind_point(config, data)
    masks = full_masks(lab.model(INITIAL))
    rounds: list[RoundResult] = []
    controls: dict[str, list[RoundResult]] = {name: [] for name in config.controls}
    for index in range(config.rounds + 1):
        if index:
            masks = shrink(config, rounds[-1].final, masks)
        rounds.append(lab.run(TICKET, index, masks, rewind if index else initial))
        for name, results in controls.items():
            if index:
                results.append(lab.run(name, index, masks, copy_state(lab.model(REINITIAL, index))))
    return Search(config, rewind, tuple(rounds), {name: tuple(results) for name, results in controls.items()})


@dataclass(frozen=True)
class _Lab:
    """What all the runs of one search share."""

    config: SearchConfig
    data: zoo.Data
    folder: Path | None
    progress: Progress | None

    def model(self, *key: int) -> nn.Module:
        """A new draw from the initialiser; `key` says what for."""
        return zoo.model(self.config.task.model, stream(self.config.seed, *key))

    def run(self, kind: str, index: int, masks: dict[str, Tensor], initial: State) -> RoundResult:
        """The result of one run: read back if its file is there and whole, else trained and written."""
        path = None if self.folder is None else self.folder / f"{kind}-{index:02}.safetensors"
        result = self._stored(path, kind, index, masks)
        resumed = result is not None
        if result is None:
            result = self._train(kind, index, masks, initial)
            if path is not None:
                save_result(path, result, self.config)
        self._report(
            "done",
            kind,
            index,
            masks,
            val_accuracy=result.val_accuracy,
            test_accuracy=result.test_accuracy,
            seconds=result.seconds,
            resumed=resumed,
        )
        return result

    def _stored(
        self, path: Path | None, kind: str, index: int, masks: dict[str, Tensor]
    ) -> RoundResult | None:
        if path is None or not path.exists():
            return None
        try:
            return load_result(path, kind, index, masks, self.config, self.data.test_y)
        except ValueError as error:
            warnings.warn(f"{error}; this run is repeated", RuntimeWarning, stacklevel=4)
            return None

    def _train(self, kind: str, index: int, masks: dict[str, Tensor], initial: State) -> RoundResult:
        recipe = self.config.task.recipe
        self._report("start", kind, index, masks, iterations=recipe.iterations)

        def watch(point: CurvePoint) -> None:
            self._report("eval", kind, index, masks, **asdict(point))

        model = self.model(INITIAL)
        model.load_state_dict(initial)
        # Tickets go on from step k with the batches of step k; the dense network and the controls, which do
        # not start from θ_k, run the whole course.
        start = self.config.rewind_to if kind == TICKET and index else 0
        result = train(model, masks, self.data, recipe, (self.config.seed, ORDER, index), start, watch)
        return RoundResult(kind=kind, round=index, masks=masks, **vars(result))

    def _report(self, event: str, kind: str, index: int, masks: dict[str, Tensor], **details: object) -> None:
        if self.progress is not None:
            who = {"event": event, "kind": kind, "round": index, "sparsity": 1 - alive_share(masks)}
            self.progress({**who, **details})
