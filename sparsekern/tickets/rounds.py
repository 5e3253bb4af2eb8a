"""Iterative magnitude pruning in whole rounds: train, prune, rewind, repeat; with controls, and resumable.

Frankle & Carbin 2019, arXiv 1803.03635, section 2: each round trains from θ_k with a fresh optimizer and a
fresh data order, drops the weights that are smallest after the last iteration, and resets the survivors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sparsekern import zoo
from sparsekern.prune import next_masks
from sparsekern.tickets import ranks
from sparsekern.tickets.config import SearchConfig
from sparsekern.tickets.controls import INITIAL, ROUNDS, Setup, full_masks, require_control
from sparsekern.tickets.lab import TICKET, Lab, draw, on_device, rewind_point, tidy
from sparsekern.tickets.matching import qualifies
from sparsekern.tickets.results import RoundResult, alive_share
from sparsekern.tickets.stepper import State, Swap, copy_state
from sparsekern.tickets.ticket import Ticket
from sparsekern.tickets.training import Progress


@dataclass(frozen=True)
class Search:
    """A finished search: `rounds[0]` is the dense network. `controls[name]` are the runs of a control: one
    for each round that it is trained in (`tickets.CONTROLS`).

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

    def control(self, name: str, index: int) -> RoundResult | None:
        """The control's run of a round; None where it has none."""
        return next((result for result in self.controls[name] if result.round == index), None)

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
            beside = [self.control(name, result.round) for name in self.controls]
            lines.append(
                f"{result.round:>5}  {result.sparsity:>8.2%}  {result.val_accuracy:>7.2%}  "
                f"{result.test_accuracy:>8.2%}  {result.early_stop_step:>10,}  "
                + "  ".join("      " if one is None else f"{one.test_accuracy:.2%}" for one in beside)
            )
        return "\n".join(lines)


def _figures(result: RoundResult) -> dict[str, object]:
    names = ("round", "sparsity", "early_stop_step", "val_accuracy", "test_accuracy", "test_loss")
    return {name: getattr(result, name) for name in names}


def shrink(config: SearchConfig, final: State, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks after a round with `masks` that ended in `final`: the smallest magnitudes dropped."""
    return next_masks(
        {name: final[name] for name in masks},
        masks,
        config.rates(masks),
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
    for name, _, parameter in (control.partition(":") for control in config.controls):
        if name == "narrow":
            draw(config, float(parameter), INITIAL)
        if name == "budget":
            config.task.recipe.stretched(float(parameter))
    model = draw(config, 1.0, INITIAL)
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


def search(
    config: SearchConfig,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    swap: Swap | None = None,
    device: str = "cpu",
) -> Search:
    """Find tickets: the dense network, then `config.rounds` rounds and their controls.

    out: a folder; every finished run is kept in `out/<config.digest>`, and what is there already is not run
    again. A run that was killed goes on from its last checkpoint there. A file that cannot be trusted is
    reported by a RuntimeWarning and its run repeated. On the same machine with the same number of threads, a
    resumed search is bit for bit the uninterrupted one. Events are logged in `log.jsonl` beside the runs.

    progress: called with a dict for each event: "event" ("start", "eval" or "done"), "kind", "round" and
    "sparsity"; with "start" also "iterations"; with "eval" the fields of CurvePoint; with "done"
    "val_accuracy", "test_accuracy", "seconds" and "resumed". swap: puts sparse layers into a network, for a
    config with `sparse_from`. device: where it is trained.

    In processes that torch.distributed joins all ranks call this alike, and all get the result.

    ValueError for data that cannot be found, a block that leaves a layer empty, training that diverges, or
    `sparse_from` without `swap`; OSError for a disk that takes no more, the last files on it being whole.
    """
    if (config.sparse_from is None) != (swap is None):
        raise ValueError(f"swap is expected with sparse_from and only then, got {config.sparse_from}, {swap}")
    data = on_device(zoo.dataset(config.task.data, config.task.data_dir), device)
    folder = None if out is None or ranks.rank() else Path(out) / config.digest
    if folder is not None:
        tidy(folder)
    lab = Lab(config, data, folder, progress, swap)
    initial, rewind = rewind_point(config, data)
    masks = full_masks(draw(config, 1.0, INITIAL, data=data))
    rounds: list[RoundResult] = []
    controls: dict[str, list[RoundResult]] = {name: [] for name in config.controls}
    for index in range(config.rounds + 1):
        if index:
            masks = ranks.agreed(_next(config, rounds, masks))
        ticket = _ticket_setup(config, rounds, masks, initial, rewind)
        rounds.append(lab.run(TICKET, index, ticket))
        for name, results in controls.items():
            if ROUNDS[(control := require_control(name)).rounds](index):
                before = rounds[max(index - 1, 0) if config.method == "iterative" else 0].final
                own = ticket if index else Setup(masks, rewind, config.task.recipe, config.rewind_to)
                this = lab.round(index, own, rewind, before)
                results.append(lab.run(name, index, control.setup(this, name.partition(":")[2])))
    return Search(config, rewind, tuple(rounds), {name: tuple(results) for name, results in controls.items()})


def _next(config: SearchConfig, rounds: list[RoundResult], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks of the round that follows `rounds`, whose last has `masks`."""
    if config.method == "iterative":
        return shrink(config, rounds[-1].final, masks)
    masks = rounds[0].masks
    for _ in rounds:  # as many steps down the ladder, all by the dense network's weights
        masks = shrink(config, rounds[0].final, masks)
    return masks


def _ticket_setup(
    config: SearchConfig, rounds: list[RoundResult], masks: dict[str, Tensor], initial: State, rewind: State
) -> Setup:
    """Where the run after `rounds` starts: see `SearchConfig.reset`."""
    recipe = config.task.recipe
    if not rounds:
        return Setup(masks, initial, recipe)
    if config.reset == "weights":
        return Setup(masks, rewind, recipe, config.rewind_to)
    last = rounds[-1 if config.method == "iterative" else 0].final
    if config.reset == "none":
        recipe = recipe.settled()
    return Setup(masks, last, recipe, config.rewind_to)
