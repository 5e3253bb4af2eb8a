"""What decides a search: every value that its bits depend on, with a digest that names its folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from sparsekern.prune import ALLOCATIONS, Geometric
from sparsekern.tickets import recipe
from sparsekern.tickets.recipe import Recipe, Task

CONTROLS = ("reinit",)


@dataclass(frozen=True)
class SearchConfig:
    """An iterative magnitude pruning search (Frankle & Carbin 2019, arXiv 1803.03635, section 2).

    rounds: pruned rounds after the dense one.
    rate: the share of what is alive that each round drops; the output layer drops half of it (figure 2).
    rewind_to: the iteration k whose weights every round restarts from; 0 is the initialisation, more is late
    rewinding (Frankle et al. 2020, arXiv 1912.05671).
    block, scope: the shape of what is dropped, and where the threshold holds (`sparsekern.prune`).
    controls: some of CONTROLS; "reinit" trains each round's mask from a new draw of the initialiser.

    ValueError for any value out of its range.
    """

    task: Task = field(default_factory=recipe.task)
    rounds: int = 12
    rate: float = 0.2
    rewind_to: int = 0
    block: tuple[int, int] = (1, 1)
    scope: str = "layer"
    seed: int = 0
    controls: tuple[str, ...] = CONTROLS

    def __post_init__(self) -> None:
        if type(self.rounds) is not int or self.rounds < 0:
            raise ValueError(f"rounds must be an int of at least 0, got {self.rounds!r}")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be an int of at least 0, got {self.seed!r}")
        Geometric(self.rate)
        iterations = self.task.recipe.iterations
        if type(self.rewind_to) is not int or not 0 <= self.rewind_to < iterations:
            raise ValueError(f"rewind_to must be an int in 0 … {iterations - 1}, got {self.rewind_to!r}")
        if self.scope not in ALLOCATIONS:
            raise ValueError(f"unknown scope {self.scope!r}: expected one of {list(ALLOCATIONS)}")
        if len(self.block) != 2 or not all(type(size) is int and size > 0 for size in self.block):
            raise ValueError(f"block must be two positive ints (out, in), got {self.block!r}")
        if unknown := set(self.controls) - set(CONTROLS):
            raise ValueError(f"unknown controls {sorted(unknown)}: expected some of {list(CONTROLS)}")

    def to_json(self) -> str:
        """All of it as one JSON object with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> SearchConfig:
        """The way back; ValueError if `text` is not the JSON of a SearchConfig."""
        try:
            values: dict[str, Any] = json.loads(text)
            inner = values["task"]
            values["task"] = Task(**{**inner, "recipe": Recipe(**inner["recipe"])})
            values["block"], values["controls"] = tuple(values["block"]), tuple(values["controls"])
            return SearchConfig(**values)
        except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"the JSON of a search configuration is expected: {error}") from error

    @property
    def digest(self) -> str:
        """16 hex digits over everything that the bits of a round depend on.

        The number of rounds, the controls and the place of the data are left out, so that a longer search
        goes on in the folder of the shorter one.
        """
        values = asdict(self)
        for name in ("rounds", "controls"):
            del values[name]
        del values["task"]["data_dir"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
