"""One training run: deterministic, watched by the validation data and not steered by it.

The batch of every step, and all chance in it, is a function of (seed, round, step) alone. So a run may start
at step k, as late rewinding asks, and meet the batches that it would have met had it come there from step 0;
and one that was killed goes on from its last checkpoint to the same bits.

The network trained here is a plain one, whose dead weights are set back to zero after every step. The numbers
are exactly those of training under the parametrization of `sparsekern.masks` (a test compares them), in half
the time: selecting by a mask is slow next to multiplying by it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekern.tickets import ranks
from sparsekern.tickets.checkpoint import Checkpoint, Progressed
from sparsekern.tickets.stepper import State, Training

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
    `state`, `val_accuracy` and all `test_…` figures are those of that step. `test_predictions` is uint8, of
    the shape of the test labels. `final` is the state after the last iteration, the one that magnitude
    pruning looks at. `seconds` is wall-clock.
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


@torch.inference_mode()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """(mean cross-entropy in nats, predicted classes uint8 (m, …)) of inputs x (m, …) with labels y (m, …).

    In eval mode, on the device of the model; the predictions are on the CPU.
    """
    training = model.training
    model.eval()
    logits = torch.cat([model(x[at : at + EVAL_BATCH]) for at in range(0, len(x), EVAL_BATCH)])
    model.train(training)
    loss = nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())
    return float(loss), logits.argmax(-1).to(torch.uint8).cpu()


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The share of `predictions` (m, …) that equal `labels` (m, …), an exact quotient of two counts."""
    return int((predictions == labels.cpu()).sum()) / labels.numel()


@dataclass
class _Seen:
    """What validation has shown so far."""

    curve: list[CurvePoint]
    best: float
    state: State


def train(
    training: Training,
    watch: Callable[[CurvePoint], None] | None = None,
    checkpoint: Checkpoint | None = None,
    found: Progressed | None = None,
) -> TrainResult:
    """Take a training to the end of its recipe; its plain network then has the last weights.

    `watch` is called with each point of the curve. `checkpoint` is written as the run goes; one that was
    `found` is gone on from. ValueError when the validation loss is no longer a finite number, or for a found
    checkpoint that does not fit.
    """
    began, recipe, data = time.perf_counter(), training.recipe, training.data
    seen = _Seen([], math.inf, training.state())
    if found is not None:
        training.resume(found.done, found.tensors)
        seen.curve = [CurvePoint(*point) for point in found.curve]
        seen.best, seen.state = min(point.val_loss for point in seen.curve), found.best
        began -= found.seconds
    saved = time.monotonic()
    while training.done < recipe.iterations:
        training.step()
        if training.done % recipe.eval_every and training.done != recipe.iterations:
            continue
        _look(training, seen)
        if checkpoint is not None and time.monotonic() - saved >= checkpoint.every_s:
            checkpoint.save(_progressed(training, seen, time.perf_counter() - began))
            saved = time.monotonic()
        if watch is not None:
            watch(seen.curve[-1])
    stop = next(point for point in seen.curve if point.val_loss == seen.best)
    final, plain = training.state(), training.plain
    plain.load_state_dict(seen.state)
    test_loss, predictions = ranks.shared(lambda: evaluate(plain, data.test_x, data.test_y))
    plain.load_state_dict(final)
    return TrainResult(
        curve=tuple(seen.curve),
        early_stop_step=stop.step,
        val_accuracy=stop.val_accuracy,
        test_loss=test_loss,
        test_accuracy=accuracy(predictions, data.test_y),
        test_predictions=predictions,
        state=_on_cpu(seen.state),
        final=_on_cpu(final),
        seconds=time.perf_counter() - began,
    )


def _look(training: Training, seen: _Seen) -> None:
    """A point of the curve, and the state if it is the best so far."""
    model, data = training.model, training.data
    val_loss, predicted = ranks.shared(lambda: evaluate(model, data.val_x, data.val_y))
    if not math.isfinite(val_loss):
        raise ValueError(
            f"training diverged: validation loss {val_loss} after {training.done} iterations "
            f"({training.recipe})"
        )
    seen.curve.append(CurvePoint(training.done, val_loss, accuracy(predicted, data.val_y)))
    if val_loss < seen.best:
        seen.best, seen.state = val_loss, training.state()


def _progressed(training: Training, seen: _Seen, seconds: float) -> Progressed:
    points = [(point.step, point.val_loss, point.val_accuracy) for point in seen.curve]
    return Progressed(training.done, training.tensors(), seen.state, points, seconds)


def _on_cpu(state: State) -> State:
    return {name: value.cpu() for name, value in state.items()}
