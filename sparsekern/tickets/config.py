"""What decides a search: every value that its bits depend on, with a digest that names its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from typing import Any

from torch import Tensor

from sparsekern.prune import ALLOCATIONS, Geometric
from sparsekern.tickets import recipe
from sparsekern.tickets.controls import ROUNDS, require_control
from sparsekern.tickets.recipe import Recipe, Task

METHODS = ("iterative", "one-shot")
RESETS = ("weights", "lr", "none")

# Frankle & Carbin 2019, arXiv 1803.03635, figure 2: what a round drops where it is not 20 % of every layer
# and half of that of the last. In residual and VGG networks all convolutions compete, and what is fully
# connected, or a 1x1 convolution around a block, stays whole.
PRUNING: dict[str, dict[str, Any]] = {
    "conv2": {"conv_rate": 0.1},
    "conv4": {"conv_rate": 0.1},
    "conv6": {"conv_rate": 0.15},
    "resnet20": {"scope": "global", "ignore": ("fc", "*.downsample.*")},
    "vgg16": {"scope": "global", "ignore": ("classifier*",)},
    "vgg19": {"scope": "global", "ignore": ("classifier*",)},
}


@dataclass(frozen=True)
class SearchConfig:
    """An iterative magnitude pruning search (Frankle & Carbin 2019, arXiv 1803.03635, section 2).

    rounds: pruned rounds after the dense one.
    rate: the share of what is alive that each round drops. conv_rate: that of convolutions, the same by
    default; output_rate: that of the last layer, half of `rate` by default (figure 2). ignore: patterns of
    the names of layers that stay whole, such as "fc" or "*.downsample.*".
    method: "iterative", or "one-shot": each round's mask comes from the dense network at once.
    rewind_to: the iteration k whose weights every round restarts from; 0 is the initialisation, more is late
    rewinding (Frankle et al. 2020, arXiv 1912.05671).
    reset: what a round restarts from. "weights": θ_k, at iteration k. "lr": the weights that the round before
    ended with, at iteration k (learning rate rewinding, Renda et al. 2020, arXiv 2003.02389). "none": these
    weights, at the last learning rate (fine-tuning, Han et al. 2015, arXiv 1506.02626).
    block, scope: the shape of what is dropped, and where the threshold holds (`sparsekern.prune`).
    controls: what is trained beside each round's ticket; see `tickets.CONTROLS`.
    sparse_from: layers at least this sparse train on sparse kernels; None is never.

    ValueError for any value out of its range.
    """

    task: Task = field(default_factory=recipe.task)
    rounds: int = 12
    rate: float = 0.2
    rewind_to: int = 0
    block: tuple[int, int] = (1, 1)
    scope: str = "layer"
    seed: int = 0
    controls: tuple[str, ...] = ("reinit",)
    conv_rate: float | None = None
    output_rate: float | None = None
    ignore: tuple[str, ...] = ()
    method: str = "iterative"
    reset: str = "weights"
    sparse_from: float | None = None

    def __post_init__(self) -> None:
        if type(self.rounds) is not int or self.rounds < 0:
            raise ValueError(f"rounds must be an int of at least 0, got {self.rounds!r}")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be an int of at least 0, got {self.seed!r}")
        for rate in (self.rate, self.conv_rate, self.output_rate):
            if rate is not None:
                Geometric(rate)
        iterations = self.task.recipe.iterations
        if type(self.rewind_to) is not int or not 0 <= self.rewind_to < iterations:
            raise ValueError(f"rewind_to must be an int in 0 … {iterations - 1}, got {self.rewind_to!r}")
        self._check_names()
        if len(self.block) != 2 or not all(type(size) is int and size > 0 for size in self.block):
            raise ValueError(f"block must be two positive ints (out, in), got {self.block!r}")
        if self.sparse_from is not None and not 0 < self.sparse_from <= 1:
            raise ValueError(f"sparse_from must be a sparsity in (0, 1] or None, got {self.sparse_from!r}")

    def _check_names(self) -> None:
        for name, value, known in (
            ("scope", self.scope, list(ALLOCATIONS)),
            ("method", self.method, METHODS),
            ("reset", self.reset, RESETS),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: expected one of {list(known)}")
        for control in self.controls:
            require_control(control)
        if len(set(self.controls)) != len(self.controls):
            raise ValueError(f"each control once is expected, got {list(self.controls)}")

    @staticmethod
    def of(task: Task, **settings: Any) -> SearchConfig:
        """A search with what the paper says of the task's network (PRUNING) where `settings` say nothing."""
        return SearchConfig(task, **{**PRUNING.get(task.model, {}), **settings})

    @property
    def runs(self) -> int:
        """How many trainings the search is."""
        chosen = [ROUNDS[require_control(name).rounds] for name in self.controls]
        return sum(1 + sum(there(index) for there in chosen) for index in range(self.rounds + 1))

    def rates(self, masks: Mapping[str, Tensor]) -> dict[str, float]:
        """The share that a round drops of each weight, by parameter name; the last one is the output's."""
        conv = self.rate if self.conv_rate is None else self.conv_rate
        last = self.rate / 2 if self.output_rate is None else self.output_rate
        rates = {name: conv if mask.dim() > 2 else self.rate for name, mask in masks.items()}
        rates[next(reversed(rates))] = last
        for pattern in self.ignore:
            whole = [name for name in masks if fnmatch(name.removesuffix(".weight"), pattern)]
            if not whole:
                raise ValueError(f"ignore: no layer is named like {pattern!r}, expected one of {list(masks)}")
            rates |= dict.fromkeys(whole, 0.0)
        return rates

    def to_json(self) -> str:
        """All of it as one JSON object with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> SearchConfig:
        """The way back; ValueError if `text` is not the JSON of a SearchConfig."""
        try:
            values: dict[str, Any] = json.loads(text)
            inner = values.pop("task")
            chosen = Task(**{**inner, "recipe": Recipe(**with_tuples(inner["recipe"]))})
            return SearchConfig(chosen, **with_tuples(values))
        except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"the JSON of a search configuration is expected: {error}") from error

    @property
    def digest(self) -> str:
        """16 hex digits over everything that the bits of a round depend on.

        The number of rounds, the controls and the place of the data are left out, so that a longer search
        goes on in the folder of the shorter one. So are the machine, its device and the number of ranks: a
        search goes on to the same bits only where it began.
        """
        values = asdict(self)
        for name in ("rounds", "controls"):
            del values[name]
        del values["task"]["data_dir"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON and TOML have lists where the dataclasses have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
