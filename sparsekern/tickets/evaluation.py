"""How good a network is, beyond its accuracy; of one seed, and of several with intervals.

All but calibration and dead units is scikit-learn's own (extra "evaluate"). Classes are the last dimension
of logits, so images (m, classes) and text (m, t, classes) are measured alike: each place of a text is a
sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsekern.tickets.matching import matched

BINS = 15
AVERAGES = ("macro", "weighted")


class Interval(NamedTuple):
    """A mean over `seeds` and its 95 % interval; of one seed there is none, and both ends are None."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


class Reliability(NamedTuple):
    """The predictions in one bin of confidence: how sure they are on average, how often right, how many."""

    confidence: float
    accuracy: float
    samples: int


class Dead(NamedTuple):
    """How many of the units behind one ReLU never fire."""

    dead: int
    units: int


class Curve(NamedTuple):
    """A receiver operating characteristic, from (0, 0) to (1, 1)."""

    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """What a network's logits on `samples` labelled samples are worth. Shares are in 0 … 1.

    loss: mean cross-entropy in nats. confusion: counts, a row for each true class, a column for each
    predicted one. precision, recall, f1: for each class, and by the name of an average; 0 where nothing was
    predicted or there is nothing to find. auc: for each class against the rest; None for a class that has no
    sample, or all. calibration_error: the expected one over BINS equal bins of confidence (Guo et al. 2017,
    arXiv 1706.04599); an empty bin is None in `reliability`.
    """

    samples: int
    accuracy: float
    loss: float
    confusion: tuple[tuple[int, ...], ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    averages: dict[str, dict[str, float]]
    auc: tuple[float | None, ...]
    calibration_error: float
    reliability: tuple[Reliability | None, ...]

    @property
    def figures(self) -> dict[str, float]:
        """The single numbers by name, such as "f1_macro"; "auc_macro" only if every class has one."""
        named = {"accuracy": self.accuracy, "loss": self.loss, "calibration_error": self.calibration_error}
        for average, values in self.averages.items():
            named |= {f"{name}_{average}": value for name, value in values.items()}
        known = [value for value in self.auc if value is not None]
        if len(known) == len(self.auc):
            named["auc_macro"] = sum(known) / len(known)
        return named

    def to_json(self) -> dict[str, Any]:
        """All of it as what json.dumps takes, without NaN: what is not known is null."""
        reliability = [None if one is None else one._asdict() for one in self.reliability]
        return asdict(self) | {"reliability": reliability}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy, in nats, of logits (..., classes) and labels int64 (...)."""
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    """Measure logits (..., classes) against labels (...), in float64.

    ValueError for shapes that do not fit, no sample, logits that are not finite, labels outside the classes,
    and if scikit-learn is missing.
    """
    scores, truth = _samples(logits, labels)
    metrics = _sklearn()
    classes = range(scores.shape[1])
    probabilities = scores.softmax(1).numpy()
    predicted = scores.argmax(1).numpy()
    shares = metrics.precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0.0)
    averages = {}
    for name in AVERAGES:
        values = metrics.precision_recall_fscore_support(
            truth, predicted, labels=classes, average=name, zero_division=0.0
        )
        averages[name] = dict(zip(("precision", "recall", "f1"), map(float, values[:3]), strict=True))
    error, reliability = calibration(probabilities.max(1), predicted == truth)
    return Evaluation(
        samples=len(truth),
        accuracy=float(metrics.accuracy_score(truth, predicted)),
        loss=float(cross_entropy(scores, torch.from_numpy(truth))),
        confusion=tuple(map(tuple, metrics.confusion_matrix(truth, predicted, labels=classes).tolist())),
        precision=tuple(shares[0].tolist()),
        recall=tuple(shares[1].tolist()),
        f1=tuple(shares[2].tolist()),
        averages=averages,
        auc=tuple(
            float(metrics.roc_auc_score(truth == one, probabilities[:, one]))
            if _told_apart(truth, one)
            else None
            for one in classes
        ),
        calibration_error=error,
        reliability=reliability,
    )


def roc(logits: Tensor, labels: Tensor) -> tuple[Curve | None, ...]:
    """The curve of each class against the rest, corners only; None for a class with no sample, or all.

    Arguments and errors are those of `evaluate`.
    """
    scores, truth = _samples(logits, labels)
    metrics, probabilities = _sklearn(), scores.softmax(1).numpy()
    curves: list[Curve | None] = []
    for one in range(scores.shape[1]):
        if not _told_apart(truth, one):
            curves.append(None)
            continue
        false, true, _ = metrics.roc_curve(truth == one, probabilities[:, one])
        curves.append(Curve(tuple(false.tolist()), tuple(true.tolist())))
    return tuple(curves)


def calibration(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS
) -> tuple[float, tuple[Reliability | None, ...]]:
    """(expected calibration error, one Reliability or None for each of `bins` equal bins of confidence).

    confidence: (m,) in 0 … 1, of the predicted classes; right: (m,), whether these are true. A bin holds its
    upper edge, and the first also zero.
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    sure = np.bincount(index, confidence, bins)
    hits = np.bincount(index, right, bins)
    error = float(np.abs(sure - hits).sum() / len(confidence))
    return error, tuple(
        Reliability(float(sure[at] / count), float(hits[at] / count), int(count)) if count else None
        for at, count in enumerate(counts)
    )


@torch.inference_mode()
def dead_units(model: nn.Module, x: Tensor, batch: int = 1_000) -> tuple[Dead, ...]:
    """The dead units behind each ReLU, in the order of the calls: zero for every one of the inputs x (m, …).

    A unit is a channel of a map (m, channels, h, w), and a feature, the last dimension, of anything else.
    The model is put into eval mode and back. A ReLU inside a fused kernel is not seen. ValueError if the
    model calls none.
    """
    alive: list[Tensor] = []
    training = model.training
    model.eval()
    try:
        for at in range(0, len(x), batch):
            with _ReLUs() as seen:
                model(x[at : at + batch])
            alive = [old | new for old, new in zip(alive, seen.fired, strict=True)] if at else seen.fired
    finally:
        model.train(training)
    if not alive:
        raise ValueError(f"{type(model).__name__} calls no ReLU on these {len(x)} inputs")
    return tuple(Dead(int((~fired).sum()), len(fired)) for fired in alive)


class _ReLUs(TorchFunctionMode):
    """Notes for every ReLU that is called, as a module or not, which units fired."""

    CALLS = (nn.functional.relu, nn.functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)

    def __init__(self) -> None:
        super().__init__()
        self.fired: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self.CALLS:
            units = 1 if result.dim() == 4 else result.dim() - 1
            self.fired.append((result > 0).transpose(0, units).flatten(1).any(1))
        return result


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean of one figure over seeds, with Student's t-interval; ValueError for no values."""
    if not values:
        raise ValueError("the figure of at least one seed is expected, got none")
    mean, count = math.fsum(values) / len(values), len(values)
    if count == 1:
        return Interval(mean, None, None, 1)
    _sklearn()  # SciPy comes with it
    from scipy import stats

    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * spread
    return Interval(mean, mean - reach, mean + reach, count)


def over_seeds(evaluations: Sequence[Evaluation]) -> dict[str, Interval]:
    """The interval of every figure that all evaluations have; ValueError if there are none."""
    if not evaluations:
        raise ValueError("the evaluation of at least one seed is expected, got none")
    every = [one.figures for one in evaluations]
    shared = [name for name in every[0] if all(name in figures for figures in every)]
    return {name: interval([figures[name] for figures in every]) for name in shared}


SEEDS_TO_MATCH = 5


def match(dense: Sequence[Evaluation], tickets: Sequence[Evaluation]) -> tuple[bool, Interval]:
    """(matched, the paired difference in accuracy in points, ticket less dense, seed by seed).

    Matched is a mean within 0.2 points, of at least SEEDS_TO_MATCH seeds (`sparsekern.tickets.matching`).
    ValueError if there are not as many dense as ticket evaluations, or none.
    """
    if len(dense) != len(tickets):
        raise ValueError(f"as many dense as ticket evaluations expected, got {len(dense)} and {len(tickets)}")
    gains = [100 * (ticket.accuracy - one.accuracy) for one, ticket in zip(dense, tickets, strict=True)]
    points = interval(gains)
    return points.seeds >= SEEDS_TO_MATCH and matched(points.mean), points


def _told_apart(truth: NDArray[np.int64], one: int) -> bool:
    """Whether there are samples of a class and of others."""
    return 0 < int((truth == one).sum()) < len(truth)


def _samples(logits: Tensor, labels: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
    """Scores float64 (samples, classes) and labels (samples,); ValueError for what cannot be measured."""
    if logits.dim() < 2 or logits.shape[:-1] != labels.shape or not labels.numel():
        raise ValueError(
            "logits (..., classes) and as many labels (...), at least one, are expected, "
            f"got shapes {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    scores = logits.detach().cpu().flatten(0, -2).double()
    truth = labels.cpu().flatten().to(torch.int64)
    if not bool(scores.isfinite().all()):
        raise ValueError(f"finite logits are expected, got {int((~scores.isfinite()).sum())} that are not")
    if int(truth.min()) < 0 or int(truth.max()) >= scores.shape[1]:
        raise ValueError(
            f"labels in 0 … {scores.shape[1] - 1} are expected, got {int(truth.min())} … {int(truth.max())}"
        )
    return scores, truth.numpy()


def _sklearn() -> Any:
    """scikit-learn's metrics; ValueError naming the extra."""
    try:
        from sklearn import metrics
    except ImportError as error:
        raise ValueError(f'scikit-learn measures: pip install "sparsekern[evaluate]" ({error})') from error
    return metrics
