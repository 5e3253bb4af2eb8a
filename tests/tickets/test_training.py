"""One training run: deterministic, and the same numbers as under the parametrization."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch
from ticket_checks import lenet, same
from torch import nn

from sparsekern import zoo
from sparsekern.masks import dense_state
from sparsekern.prune import prune_
from sparsekern.tickets import Recipe, Training, train
from sparsekern.tickets.stepper import batches, copy_state, steps, stream
from sparsekern.tickets.training import accuracy, evaluate


def test_batches_cover_an_epoch_once_and_every_epoch_is_new() -> None:
    drawn = list(islice(batches(100, 30, (0, 1)), 6))
    first, second = torch.cat(drawn[:3]), torch.cat(drawn[3:])
    assert first.unique().numel() == second.unique().numel() == 90
    assert not torch.equal(first, second)
    other = torch.cat(list(islice(batches(100, 30, (0, 2)), 3)))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("start", [0, 2, 3, 7])
def test_an_order_entered_at_step_k_goes_on_as_from_the_start(start: int) -> None:
    whole = list(islice(batches(100, 30, (5,)), 10))
    late = list(islice(batches(100, 30, (5,), start), 10 - start))
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], late, strict=True))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of at most 100.* expected, got 101"):
        next(batches(100, 101, (0,)))


@pytest.mark.parametrize("recipe", [Recipe(weight_decay=0.1), Recipe(optimizer="sgd", lr=0.1)])
def test_dead_weights_stay_zero_and_the_rest_is_bit_for_bit_the_parametrization(
    recipe: Recipe, data: zoo.Data
) -> None:
    recipe = replace(recipe, iterations=12)
    plain, masked = lenet(), lenet()
    masks = {name: mask.clone() for name, mask in prune_(masked, 0.8).items()}
    for _ in steps(plain, masks, data, recipe, (3,)):
        assert all(bool((plain.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
    for _ in steps(masked, {}, data, recipe, (3,)):
        pass
    assert same(copy_state(plain), dense_state(masked))
    assert not same(copy_state(plain), copy_state(lenet()))


def test_early_stop_is_the_first_minimum_and_everything_reported_is_of_that_step(data: zoo.Data) -> None:
    recipe = Recipe(iterations=40, eval_every=3, lr=0.01)
    seen = []
    model = lenet()
    result = train(Training(model, {}, data, recipe, (0,)), seen.append)
    assert [point.step for point in result.curve] == [*range(3, 40, 3), 40] and tuple(seen) == result.curve
    losses = [point.val_loss for point in result.curve]
    stop = result.curve[losses.index(min(losses))]
    assert result.early_stop_step == stop.step < 40 and result.val_accuracy == stop.val_accuracy
    assert same(result.final, copy_state(model))
    model.load_state_dict(result.state)
    assert evaluate(model, data.val_x, data.val_y)[0] == stop.val_loss
    loss, predictions = evaluate(model, data.test_x, data.test_y)
    assert result.test_loss == loss and torch.equal(result.test_predictions, predictions)
    assert result.test_predictions.dtype == torch.uint8
    assert result.test_accuracy == accuracy(predictions, data.test_y) > 0.5


def test_the_same_key_gives_the_same_bits_and_another_key_others(data: zoo.Data) -> None:
    recipe = Recipe(iterations=8, eval_every=4)
    first, again, other = (
        train(Training(lenet(), {}, data, recipe, key)) for key in ((1, 2), (1, 2), (1, 3))
    )
    assert same(first.final, again.final) and first.curve == again.curve
    assert not same(first.final, other.final)


def test_validation_data_steers_nothing(data: zoo.Data) -> None:
    recipe = Recipe(iterations=8, eval_every=4)
    blind = replace(data, val_x=torch.zeros_like(data.val_x))
    often = replace(recipe, eval_every=1)
    expected = train(Training(lenet(), {}, data, recipe, (0,))).final
    assert same(train(Training(lenet(), {}, blind, recipe, (0,))).final, expected)
    assert same(train(Training(lenet(), {}, data, often, (0,))).final, expected)


def test_evaluate_is_the_mean_over_all_images_however_they_are_cut(data: zoo.Data) -> None:
    x, y = data.train_x.repeat(8, 1, 1, 1)[:2345], data.train_y.repeat(8)[:2345]
    model = lenet()
    loss, predictions = evaluate(model, x, y)
    logits = model(x)
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, y).detach()), rel=1e-5)
    assert torch.equal(predictions, logits.argmax(1).to(torch.uint8))


def test_divergence_is_an_error_and_not_a_result(data: zoo.Data) -> None:
    with pytest.raises(
        ValueError, match=r"training diverged: validation loss (nan|inf) after \d+ iterations"
    ):
        train(Training(lenet(), {}, data, Recipe(optimizer="sgd", lr=1e20, iterations=9, eval_every=3), (0,)))


def test_streams_differ_by_key_and_not_by_history() -> None:
    draws = {
        key: float(torch.rand((), generator=stream(*key))) for key in ((0,), (1,), (0, 0), (0, 1), (1, 0))
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[0, 1] == float(torch.rand((), generator=stream(0, 1)))
