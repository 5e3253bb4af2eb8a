"""One-shot and iterative, what is reset, rates by kind of layer, schedules, kernels, and checkpoints."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ticket_checks import lenet, same
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import mask_
from sparsekern.nn import swap_
from sparsekern.tickets import Recipe, Search, SearchConfig, Training, search, task, train
from sparsekern.tickets import lab as module
from sparsekern.tickets.checkpoint import Checkpoint, Progressed
from sparsekern.tickets.controls import full_masks
from sparsekern.tickets.stepper import copy_state

TINY = task(iterations=6, eval_every=3)


def started(monkeypatch: pytest.MonkeyPatch, config: SearchConfig) -> tuple[Search, list[Training]]:
    """A search, and the weights, the step and the recipe that each of its runs started with."""
    runs: list[Any] = []

    def spy(training: Training, *rest: Any) -> Any:
        runs.append((copy_state(training.model), training.start, training.recipe))
        return train(training, *rest)

    monkeypatch.setattr(module, "train", spy)
    return search(config), runs


def test_one_shot_takes_every_mask_from_the_dense_network() -> None:
    config = SearchConfig(TINY, rounds=3, method="one-shot", controls=())
    found, iterative = search(config), search(replace(config, method="iterative"))
    assert same(found.rounds[1].masks, iterative.rounds[1].masks)
    for one, other in zip(found.rounds, iterative.rounds, strict=True):
        assert one.density == other.density
    assert not same(found.rounds[3].masks, iterative.rounds[3].masks)
    dense = found.dense.final["fc1.weight"].abs()
    mask = found.rounds[3].masks["fc1.weight"]
    assert dense[~mask].max() <= dense[mask].min()


def test_without_reset_a_round_goes_on_with_the_weights_it_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = task(iterations=6, eval_every=3, drops=(4,), lr=0.01)
    config = SearchConfig(recipe, rounds=2, rewind_to=3, reset="none", controls=())
    found, runs = started(monkeypatch, config)
    for index in (1, 2):
        state, start, used = runs[index]
        mask = found.rounds[index].masks["fc1.weight"]
        assert torch.equal(state["fc1.weight"], found.rounds[index - 1].final["fc1.weight"] * mask)
        assert start == 3 and used.lr == pytest.approx(0.001) and not used.drops


def test_rewinding_the_learning_rate_keeps_the_weights_and_the_schedule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = task(iterations=6, eval_every=3, drops=(4,), lr=0.01)
    found, runs = started(monkeypatch, SearchConfig(recipe, rounds=1, rewind_to=2, reset="lr", controls=()))
    state, start, used = runs[1]
    expected = found.dense.final["fc1.weight"] * found.rounds[1].masks["fc1.weight"]
    assert torch.equal(state["fc1.weight"], expected) and start == 2 and used == recipe.recipe


def test_rates_follow_the_kind_of_layer_and_the_paper() -> None:
    for model, third in (("conv2", 51.41), ("conv4", 53.55), ("conv6", 56.39)):
        config = SearchConfig.of(task(model, "cifar10"))
        masks = full_masks(zoo.model(model))
        rates = config.rates(masks)
        alive = {name: mask.numel() for name, mask in masks.items()}
        for _ in range(3):
            alive = {name: count - round(count * rates[name]) for name, count in alive.items()}
        share = 100 * sum(alive.values()) / sum(mask.numel() for mask in masks.values())
        assert share == pytest.approx(third, abs=0.01)
    residual = SearchConfig.of(task("resnet20", "cifar10"))
    rates = residual.rates(full_masks(zoo.model("resnet20")))
    assert residual.scope == "global" and rates["fc.weight"] == 0 == rates["layer2.0.downsample.0.weight"]
    assert {rate for name, rate in rates.items() if "downsample" not in name and name != "fc.weight"} == {0.2}
    with pytest.raises(ValueError, match="ignore: no layer is named like 'head'"):
        SearchConfig(TINY, ignore=("head",)).rates(full_masks(lenet()))


def test_the_learning_rate_rises_falls_and_is_what_the_optimizer_has(data: zoo.Data) -> None:
    recipe = Recipe(lr=0.8, warmup=4, drops=(6, 8), iterations=10, batch=50)
    expected = [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.08, 0.08, 0.008, 0.008]
    assert [recipe.lr_at(step) for step in range(10)] == pytest.approx(expected)
    training, used = Training(lenet(), {}, data, recipe, (0,)), []
    for _ in range(10):
        training.step()
        used.append(training.optimizer.param_groups[0]["lr"])
    assert used == pytest.approx(expected)
    assert recipe.stretched(2).lr_at(11) == pytest.approx(0.8) and recipe.stretched(2).iterations == 20


def swapped(model: nn.Module, masks: Any, x: Tensor) -> None:
    for name, mask in masks.items():
        mask_(model.get_submodule(name.removesuffix(".weight")), mask)
    swap_(model, x, threshold=0.5)


def test_training_on_sparse_kernels_is_training_under_the_mask(data: zoo.Data) -> None:
    chance = torch.Generator().manual_seed(1)
    masks = {
        name: torch.rand(mask.shape, generator=chance) < 0.1 for name, mask in full_masks(lenet()).items()
    }
    recipe = Recipe(iterations=12, eval_every=4)
    dense = train(Training(lenet(), masks, data, recipe, (0,)))
    training = Training(lenet(), masks, data, recipe, (0,), swap=swapped)
    assert not training.factors and "fc1.values" in dict(training.model.named_parameters())
    sparse = train(training)
    for name, value in dense.final.items():
        assert torch.allclose(sparse.final[name], value, atol=1e-4)
        if name in masks:
            assert bool((sparse.final[name][~masks[name]] == 0).all())
    assert list(sparse.final) == list(dense.final)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_run_goes_on_from_its_checkpoint_to_the_same_bits(
    sparse: bool, data: zoo.Data, tmp_path: Path
) -> None:
    recipe = Recipe(iterations=12, eval_every=3, warmup=5, drops=(9,))
    masks = {name: mask.clone() for name, mask in full_masks(lenet()).items()}
    masks["fc1.weight"].view(-1)[::3] = False
    masks["fc2.weight"].view(-1)[1::2] = False

    def fresh() -> Training:
        return Training(lenet(), masks, data, recipe, (4,), swap=swapped if sparse else None)

    whole = train(fresh())
    checkpoint = Checkpoint(tmp_path / "run.progress", {"round": 1}, every_s=0)

    def stop_at_6(point: Any) -> None:
        if point.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), stop_at_6, checkpoint)
    found = checkpoint.load()
    assert found is not None and found.done == 6 and len(found.curve) == 2
    again = train(fresh(), None, checkpoint, found)
    assert same(again.final, whole.final) and same(again.state, whole.state) and again.curve == whole.curve
    with pytest.raises(ValueError, match=r"a checkpoint of \{'round': 2\} expected"):
        Checkpoint(checkpoint.path, {"round": 2}).load()


def test_a_full_disk_is_an_error_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "run.progress", {})
    weights = {"w": torch.ones(3)}
    checkpoint.save(Progressed(1, weights, weights, [(1, 0.5, 0.5)], 1.0))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(Progressed(2, weights, weights, [(1, 0.5, 0.5)], 2.0))
    monkeypatch.undo()
    found = checkpoint.load()
    assert (
        found is not None
        and found.done == 1
        and [path.name for path in tmp_path.iterdir()] == ["run.progress"]
    )


def test_a_search_asks_for_kernels_only_with_sparse_from() -> None:
    with pytest.raises(ValueError, match="swap is expected with sparse_from and only then"):
        search(SearchConfig(TINY, rounds=1, sparse_from=0.8))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scores_are_float32_of_the_master_weights(precision: str, data: zoo.Data) -> None:
    result = train(Training(lenet(), {}, data, Recipe(iterations=3, precision=precision), (0,)))
    assert all(value.dtype is torch.float32 for value in result.final.values())
    if precision == "bfloat16":
        other = train(Training(lenet(), {}, data, Recipe(iterations=3), (0,)))
        assert not same(result.final, other.final)


def test_augmentation_and_dropout_are_functions_of_the_step(data: zoo.Data) -> None:
    recipe = Recipe(iterations=6, eval_every=6, augment="flip-crop")
    first, again = (train(Training(lenet(), {}, data, recipe, (3,))) for _ in range(2))
    plain = train(Training(lenet(), {}, data, replace(recipe, augment="none"), (3,)))
    assert same(first.final, again.final) and not same(first.final, plain.final)
    before = torch.random.get_rng_state()
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    weights = copy_state(network)
    finals = []
    for _ in range(2):
        network.load_state_dict(weights)
        finals.append(train(Training(network, {}, data, Recipe(iterations=3, dropout=0.5), (1,))).final)
        torch.rand(3)
    assert same(*finals)
    torch.random.set_rng_state(before)
