"""Recipes: how a network is trained, and the task that names network, data and recipe."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from sparsekern import zoo
from sparsekern.zoo.augment import AUGMENTATIONS

OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
"""name -> the dtype of autocast. Weights, their optimizer and all scores are float32 in each."""


@dataclass(frozen=True)
class Recipe:
    """How one network is trained; an iteration is one step of the optimizer on one batch.

    eval_every: the validation loss is recorded every so many iterations, and after the last; it steers
    nothing.
    momentum: of "sgd"; "adam" has its own.
    warmup: iterations in which the learning rate rises from 0 to `lr`, in a line. drops: iterations after
    which it is multiplied by `drop_factor`.
    dropout: the share of activations dropped, in networks that have a place for it. augment: a name in
    `zoo.AUGMENTATIONS`. precision: a name in PRECISIONS.

    ValueError for an unknown name or a figure out of its range.
    """

    optimizer: str = "adam"
    lr: float = 1.2e-3
    batch: int = 60
    iterations: int = 50_000
    eval_every: int = 100
    weight_decay: float = 0.0
    momentum: float = 0.0
    warmup: int = 0
    drops: tuple[int, ...] = ()
    drop_factor: float = 0.1
    dropout: float = 0.0
    augment: str = "none"
    precision: str = "float32"

    def __post_init__(self) -> None:
        names = {"optimizer": OPTIMIZERS, "augment": AUGMENTATIONS, "precision": PRECISIONS}
        for name, table in names.items():
            if getattr(self, name) not in table:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: expected one of {list(table)}")
        for name in ("batch", "iterations", "eval_every"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} must be a positive int, got {getattr(self, name)!r}")
        if not self.lr > 0 or not self.weight_decay >= 0:
            raise ValueError(
                "recipe: lr > 0 and weight_decay >= 0 expected, "
                f"got lr={self.lr!r} and weight_decay={self.weight_decay!r}"
            )
        for name in ("momentum", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} must be in [0, 1), got {getattr(self, name)!r}")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"recipe: momentum is of sgd, {self.optimizer} has its own, got {self.momentum}")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if type(self.warmup) is not int or self.warmup < 0:
            raise ValueError(f"recipe: warmup must be an int of at least 0, got {self.warmup!r}")
        if not 0 < self.drop_factor <= 1:
            raise ValueError(f"recipe: drop_factor must be in (0, 1], got {self.drop_factor!r}")
        ints = all(type(step) is int and step > 0 for step in self.drops)
        if not ints or list(self.drops) != sorted(set(self.drops)):
            raise ValueError(f"recipe: drops must be ascending positive ints, got {self.drops!r}")

    def lr_at(self, step: int) -> float:
        """The learning rate of the iteration that follows `step` finished ones."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * rise * self.drop_factor ** sum(step >= drop for drop in self.drops)

    def settled(self) -> Recipe:
        """The same with the learning rate that it ends with, all along."""
        return replace(self, lr=self.lr_at(self.iterations - 1), warmup=0, drops=())

    def stretched(self, factor: float) -> Recipe:
        """The same course in `factor` times as many iterations, its drops and warm-up moved along."""
        return replace(
            self,
            iterations=max(1, round(factor * self.iterations)),
            drops=tuple(round(factor * step) for step in self.drops),
            warmup=round(factor * self.warmup),
        )


# Frankle & Carbin 2019, arXiv 1803.03635, figure 2; there are 55,000 training images of MNIST, 45,000 of
# CIFAR-10. The figure's "ResNet-18" is the ResNet-20 of He et al. The small set has a twelfth of the images:
# the dense network's validation loss is lowest after about 500 iterations, and 1,200 are 16 epochs.
_CIFAR: dict[str, Any] = {
    "batch": 128,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "augment": "flip-crop",
}
_VGG: dict[str, Any] = {**_CIFAR, "batch": 64, "iterations": 112_480, "eval_every": 1_000}
RECIPES: dict[tuple[str, str], Recipe] = {
    ("lenet300", "mnist"): Recipe(),
    ("lenet300", "fashion-mnist"): Recipe(),
    ("lenet300", "fashion-mnist-6k"): Recipe(iterations=1_200, eval_every=25),
    ("conv2", "cifar10"): Recipe(lr=2e-4, iterations=20_000),
    ("conv4", "cifar10"): Recipe(lr=3e-4, iterations=25_000),
    ("conv6", "cifar10"): Recipe(lr=3e-4, iterations=30_000),
    ("resnet20", "cifar10"): Recipe(
        **_CIFAR, lr=0.03, warmup=20_000, iterations=30_000, drops=(20_000, 25_000), eval_every=500
    ),
    ("vgg16", "cifar10"): Recipe(**_VGG, lr=0.1, warmup=10_000, drops=(56_240, 84_360)),
    ("vgg19", "cifar10"): Recipe(**_VGG, lr=0.1, warmup=10_000, drops=(56_240, 84_360)),
    # No paper's: AdamW is what such models are trained with, Adam without decay is nearest to it here.
    ("transformer", "tiny-shakespeare"): Recipe(lr=1e-3, batch=32, iterations=3_000, warmup=100),
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

    Networks and pairs without a recipe are taken if `lr` and `iterations` say how to train them. ValueError
    for an unknown network or data set, a pair without a recipe, or an unknown or bad override.
    """
    if ":" not in model and model not in zoo.MODELS:  # those of libraries are asked for by name
        raise ValueError(f"unknown model {model!r}: expected one of {sorted(zoo.MODELS)}")
    if data not in zoo.DATASETS:
        raise ValueError(f"unknown data set {data!r}: expected one of {sorted(zoo.DATASETS)}")
    known = [field.name for field in fields(Recipe)]
    if unknown := set(recipe) - set(known):
        raise ValueError(f"unknown recipe fields {sorted(unknown)}: expected some of {known}")
    if (model, data) not in RECIPES and not {"lr", "iterations"} <= set(recipe):
        raise ValueError(
            f"no recipe for {model} on {data}: expected one of {sorted(RECIPES)}, or lr and iterations"
        )
    chosen = replace(RECIPES.get((model, data), Recipe()), **recipe)
    return Task(model, data, chosen, None if data_dir is None else str(data_dir))
