"""One training run: deterministic, watched by the validation data and not steered by it.

The batch of every step is a function of (seed, round, step) alone. So a run may start at step k, as late
rewinding asks, and meet the batches that it would have met had it come there from step 0.

The network trained here is a plain one, whose dead weights are set back to zero after every step. The numbers
are exactly those of training under the parametrization of `sparsekern.masks` (a test compares them), in half
the time: selecting by a mask is slow next to multiplying by it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sparsekern.tickets.recipe import OPTIMIZERS, Recipe
from sparsekern.zoo import Data

State = dict[str, Tensor]
Progress = Callable[[Mapping[str, object]], None]
EVAL_BATCH = 1_000


@dataclass(frozen=True)
class CurvePoint:
    """The validation loss (mean cross-entropy, nats) and accuracy (share, 0 … 1) after `step` iterations."""

    step: int
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """What one run gave. Accuracies are shares (0 … 1); states are state dicts, zeros in place.

    `early_stop_step` is the step of minimum validation loss, the first of several, read off after the run;
    `state`, `val_accuracy` and all `test_…` figures are those of that step. `test_predictions` is uint8 (test
    images,). `final` is the state after the last iteration, the one that magnitude pruning looks at.
    `seconds` is wall-clock.
    """

    curve: tuple[CurvePoint, ...]
    early_stop_step: int
    val_accuracy: float
    test_loss: float
    test_accuracy: float
    test_predictions: Tensor
    state: State
    final: State
    seconds: float


def stream(*key: int) -> torch.Generator:
    """A generator that belongs to `key`: a seed followed by what the draws are for."""
    # The length is part of the key because SeedSequence does not see zeros at the end.
    sequence = np.random.SeedSequence((len(key), *key))
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def batches(count: int, batch: int, key: tuple[int, ...], start: int = 0) -> Iterator[Tensor]:
    """Indices (batch,) of the steps start, start + 1, … without end.

    Each epoch is a new permutation of `count`. What is left over at the end of an epoch is dropped.
    ValueError for a batch larger than `count`.
    """
    per_epoch = count // batch
    if per_epoch == 0:
        raise ValueError(
            f"a batch of at most {count}, the number of training images, is expected, got {batch}"
        )
    epoch, first = divmod(start, per_epoch)
    while True:
        order = torch.randperm(count, generator=stream(*key, epoch))
        for at in range(first * batch, per_epoch * batch, batch):
            yield order[at : at + batch]
        epoch, first = epoch + 1, 0


@torch.inference_mode()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """(mean cross-entropy in nats, predicted classes uint8 (m,)) of images x (m, …) with labels y (m,)."""
    logits = torch.cat([model(x[at : at + EVAL_BATCH]) for at in range(0, len(x), EVAL_BATCH)])
    return float(nn.functional.cross_entropy(logits, y)), logits.argmax(1).to(torch.uint8)


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The share of `predictions` (m,) that equal `labels` (m,), an exact quotient of two counts."""
    return int((predictions == labels).sum()) / len(labels)


def copy_state(model: nn.Module) -> State:
    """A copy of the model's state dict that further training does not touch."""
    return {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def zero_dead_(model: nn.Module, factors: Mapping[str, Tensor]) -> None:
    """Multiply parameters in place by `factors`: 1 where a weight is alive, 0 where it is dead."""
    for name, factor in factors.items():
        model.get_parameter(name).mul_(factor)


def steps(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    data: Data,
    recipe: Recipe,
    key: tuple[int, ...],
    start: int = 0,
) -> Iterator[int]:
    """Train a plain `model` in place from step `start` with a fresh optimizer; yields the iterations done.

    Weights that `masks` (bool, by parameter name) call dead are zero from the start and after every
    iteration.
    """
    factors = {name: mask.to(torch.float32) for name, mask in masks.items() if not bool(mask.all())}
    zero_dead_(model, factors)
    optimizer = OPTIMIZERS[recipe.optimizer](
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    order = batches(len(data.train_y), recipe.batch, key, start)
    for done, chosen in zip(range(start + 1, recipe.iterations + 1), order, strict=False):
        loss = nn.functional.cross_entropy(model(data.train_x[chosen]), data.train_y[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        zero_dead_(model, factors)
        yield done


def train(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    data: Data,
    recipe: Recipe,
    key: tuple[int, ...],
    start: int = 0,
    watch: Callable[[CurvePoint], None] | None = None,
) -> TrainResult:
    """Train a plain `model` in place from step `start` to the end, dead where `masks` say so.

    `key` seeds the data order; `watch` is called with each point of the curve.
    ValueError when the validation loss is no longer a finite number.
    """
    began = time.perf_counter()
    curve: list[CurvePoint] = []
    best, best_state = math.inf, copy_state(model)
    for done in steps(model, masks, data, recipe, key, start):
        if done % recipe.eval_every and done != recipe.iterations:
            continue
        val_loss, predicted = evaluate(model, data.val_x, data.val_y)
        if not math.isfinite(val_loss):
            raise ValueError(
                f"training diverged: validation loss {val_loss} after {done} iterations ({recipe})"
            )
        curve.append(CurvePoint(done, val_loss, accuracy(predicted, data.val_y)))
        if val_loss < best:
            best, best_state = val_loss, copy_state(model)
        if watch is not None:
            watch(curve[-1])
    stop = next(point for point in curve if point.val_loss == best)
    final = copy_state(model)
    model.load_state_dict(best_state)
    test_loss, predictions = evaluate(model, data.test_x, data.test_y)
    model.load_state_dict(final)
    return TrainResult(
        curve=tuple(curve),
        early_stop_step=stop.step,
        val_accuracy=stop.val_accuracy,
        test_loss=test_loss,
        test_accuracy=accuracy(predictions, data.test_y),
        test_predictions=predictions,
        state=best_state,
        final=final,
        seconds=time.perf_counter() - began,
    )
