"""Winning tickets: iterative magnitude pruning with rewinding, its controls, and the ticket file.

Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", arXiv 1803.03635.
"""

from __future__ import annotations

from pathlib import Path

from sparsekern.tickets.config import PRUNING, SearchConfig
from sparsekern.tickets.controls import CONTROLS
from sparsekern.tickets.matching import MATCH_TOLERANCE, Difference, difference, matched, qualifies
from sparsekern.tickets.recipe import RECIPES, Recipe, Task, task
from sparsekern.tickets.results import RoundResult
from sparsekern.tickets.rounds import Search, rehearse, search
from sparsekern.tickets.stepper import Training
from sparsekern.tickets.ticket import Ticket
from sparsekern.tickets.training import CurvePoint, TrainResult, train

__all__ = [
    "CONTROLS",
    "MATCH_TOLERANCE",
    "PRUNING",
    "RECIPES",
    "CurvePoint",
    "Difference",
    "Recipe",
    "RoundResult",
    "Search",
    "SearchConfig",
    "Task",
    "Ticket",
    "TrainResult",
    "Training",
    "difference",
    "find_ticket",
    "matched",
    "qualifies",
    "rehearse",
    "search",
    "task",
    "train",
]


def find_ticket(
    task: Task,
    rounds: int = 12,
    rate: float = 0.2,
    rewind_to: int = 0,
    block: tuple[int, int] = (1, 1),
    seed: int = 0,
    out: str | Path | None = None,
) -> Ticket:
    """The winning ticket of a search without controls: the sparsest round that matches the dense network.

    The arguments are those of `SearchConfig`; `out` is the folder to keep finished rounds in and to resume
    from. Which round won and what it reached is in `ticket.results`. For the whole search, with controls, see
    `search`. ValueError for bad arguments, and before anything is trained for what `rehearse` finds.
    """
    config = SearchConfig(task, rounds, rate, rewind_to, block, seed=seed, controls=())
    rehearse(config)
    found = search(config, out=out)
    return found.ticket(found.winner().round)
