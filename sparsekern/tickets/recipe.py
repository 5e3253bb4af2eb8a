"""Recipes: how a network is trained, and the task that names network, data and recipe."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from sparsekern import zoo

OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class Recipe:
    """How one network is trained; an iteration is one step of the optimizer on one batch.

    The validation loss is recorded every `eval_every` iterations and after the last; it steers nothing.
    ValueError for an optimizer that is not in OPTIMIZERS or a figure that is not positive.
    """

    optimizer: str = "adam"
    lr: float = 1.2e-3
    batch: int = 60
    iterations: int = 50_000
    eval_every: int = 100
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}: expected one of {list(OPTIMIZERS)}")
        for name in ("batch", "iterations", "eval_every"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} must be a positive int, got {getattr(self, name)!r}")
        if not self.lr > 0 or not self.weight_decay >= 0:
            raise ValueError(
                "recipe: lr > 0 and weight_decay >= 0 expected, "
                f"got lr={self.lr!r} and weight_decay={self.weight_decay!r}"
            )


# The full sets: Frankle & Carbin 2019, arXiv 1803.03635, figure 2. The small set has a twelfth of the images:
# the dense network's validation loss is lowest after about 500 iterations, and 1,200 are 16 epochs.
RECIPES: dict[tuple[str, str], Recipe] = {
    ("lenet300", "mnist"): Recipe(),
    ("lenet300", "fashion-mnist"): Recipe(),
    ("lenet300", "fashion-mnist-6k"): Recipe(iterations=1_200, eval_every=25),
}


@dataclass(frozen=True)
class Task:
    """What is to be learned: a network and a data set of the zoo, and the recipe. Made by `task`."""

    model: str
    data: str
    recipe: Recipe
    data_dir: str | None = None


def task(
    model: str = "lenet300", data: str = "fashion-mnist-6k", data_dir: str | Path | None = None, **recipe: Any
) -> Task:
    """The task with its recipe out of RECIPES; keywords such as `iterations=500` override the recipe.

    ValueError for an unknown network or data set, a pair without a recipe, or an unknown or bad override.
    """
    for what, name, table in (("model", model, zoo.MODELS), ("data set", data, zoo.DATASETS)):
        if name not in table:
            raise ValueError(f"unknown {what} {name!r}: expected one of {sorted(table)}")
    if (model, data) not in RECIPES:
        raise ValueError(f"no recipe for {model} on {data}: expected one of {sorted(RECIPES)}")
    known = [field.name for field in fields(Recipe)]
    if unknown := set(recipe) - set(known):
        raise ValueError(f"unknown recipe fields {sorted(unknown)}: expected some of {known}")
    chosen = replace(RECIPES[model, data], **recipe)
    return Task(model, data, chosen, None if data_dir is None else str(data_dir))
