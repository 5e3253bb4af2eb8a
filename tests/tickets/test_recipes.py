"""Recipes, tasks and search configurations: the paper's figures, and refusals that name what came."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from sparsekern import zoo
from sparsekern.tickets import RECIPES, SearchConfig, task


def test_the_full_sets_have_the_recipe_of_the_paper() -> None:
    for data in ("mnist", "fashion-mnist"):
        assert asdict(task("lenet300", data).recipe) == {
            "optimizer": "adam",
            "lr": 1.2e-3,
            "batch": 60,
            "iterations": 50_000,
            "eval_every": 100,
            "weight_decay": 0.0,
            "momentum": 0.0,
            "warmup": 0,
            "drops": (),
            "drop_factor": 0.1,
            "dropout": 0.0,
            "augment": "none",
            "precision": "float32",
        }
    assert all(model in zoo.MODELS and data in zoo.DATASETS for model, data in RECIPES)
    assert {data for _, data in RECIPES} == set(zoo.DATASETS)


def test_keywords_override_the_recipe_and_nothing_else() -> None:
    changed = task(iterations=7, lr=0.1)
    assert changed.recipe == replace(task().recipe, iterations=7, lr=0.1)
    assert (changed.model, changed.data, changed.data_dir) == ("lenet300", "fashion-mnist-6k", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "lenet5"}, r"unknown model 'lenet5': expected one of \[.*'lenet300'.*\]"),
        ({"data": "imagenet"}, "unknown data set 'imagenet': expected one of"),
        ({"epochs": 3}, r"unknown recipe fields \['epochs'\]: expected some of \['optimizer', 'lr'"),
        ({"optimizer": "lion"}, r"unknown optimizer 'lion': expected one of \['adam', 'sgd'\]"),
        ({"iterations": 0}, "iterations must be a positive int, got 0"),
        ({"batch": 1.5}, "batch must be a positive int, got 1.5"),
        ({"lr": float("nan")}, "lr > 0 .* got lr=nan"),
    ],
)
def test_bad_tasks_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": -1}, "rounds must be an int of at least 0, got -1"),
        ({"seed": -1}, "seed must be an int of at least 0, got -1"),
        ({"rate": 1.0}, r"rate must be in \[0, 1\), got 1.0"),
        ({"rewind_to": 1_200}, r"rewind_to must be an int in 0 … 1199, got 1200"),
        ({"scope": "all"}, "unknown scope 'all'"),
        ({"block": (16,)}, "two positive ints"),
        ({"controls": ("twins",)}, r"unknown control 'twins': expected some of \['reinit', .*'regroup:…'"),
    ],
)
def test_bad_searches_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**arguments)


def test_a_configuration_goes_through_json_and_back() -> None:
    config = SearchConfig(
        task(iterations=9, data_dir="somewhere"), rounds=3, block=(16, 1), seed=4, controls=()
    )
    assert SearchConfig.from_json(config.to_json()) == config
    for text in ("", "[]", "{}", config.to_json().replace("rounds", "turns")):
        with pytest.raises(ValueError, match="JSON of a search configuration is expected"):
            SearchConfig.from_json(text)


def test_the_digest_changes_with_what_decides_the_bits_and_with_nothing_else() -> None:
    base = SearchConfig()
    same = [
        replace(base, rounds=3),
        replace(base, controls=()),
        replace(base, task=task(data_dir="elsewhere")),
    ]
    assert {config.digest for config in same} == {base.digest}
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"rate": 0.3},
        {"rewind_to": 5},
        {"block": (16, 1)},
        {"scope": "global"},
        {"task": task(iterations=9)},
        {"task": task(data="mnist")},
    ]
    digests = {replace(base, **other).digest for other in others}
    assert len(digests) == len(others) and base.digest not in digests
