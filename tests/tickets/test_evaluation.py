"""Evaluation: every figure against its definition, and what several seeds say."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.tickets.evaluation import (
    AVERAGES,
    calibration,
    cross_entropy,
    dead_units,
    evaluate,
    interval,
    match,
    over_seeds,
    roc,
)

metrics = pytest.importorskip("sklearn.metrics")


def sample(seed: int = 0, count: int = 300, classes: int = 4) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=draw)
    logits = torch.randn(count, classes, generator=draw) + 1.5 * nn.functional.one_hot(labels, classes)
    return logits, labels


def test_every_figure_is_its_definition() -> None:
    logits, labels = sample()
    found = evaluate(logits, labels)
    predicted, exact = logits.argmax(1), logits.double().log_softmax(1)
    pairs = list(zip(labels.tolist(), predicted.tolist(), strict=True))
    assert found.samples == 300 and found.accuracy == sum(a == b for a, b in pairs) / 300
    assert found.loss == pytest.approx(-float(exact[torch.arange(300), labels].mean()), abs=1e-12)
    for true in range(4):
        assert found.confusion[true] == tuple(pairs.count((true, other)) for other in range(4))
        right = found.confusion[true][true]
        precision = right / sum(row[true] for row in found.confusion)
        recall = right / sum(found.confusion[true])
        assert found.precision[true] == pytest.approx(precision, abs=1e-12)
        assert found.recall[true] == pytest.approx(recall, abs=1e-12)
        assert found.f1[true] == pytest.approx(2 / (1 / precision + 1 / recall), abs=1e-12)
        # the chance that a sample of the class is given more of it than one of the rest
        given = exact[:, true].exp()
        wins = (given[labels == true][:, None] > given[labels != true][None]).double().mean()
        assert found.auc[true] == pytest.approx(float(wins), abs=1e-12)
    counts = torch.bincount(labels).double() / 300
    assert found.averages["macro"]["f1"] == pytest.approx(np.mean(found.f1), abs=1e-12)
    weighted = sum(share * value for share, value in zip(counts.tolist(), found.recall, strict=True))
    assert found.averages["weighted"]["recall"] == pytest.approx(weighted, abs=1e-12)


def test_it_is_equal_to_scikit_learn() -> None:
    logits, labels = sample(1)
    found, probabilities = evaluate(logits, labels), logits.double().softmax(1).numpy()
    assert found.loss == pytest.approx(metrics.log_loss(labels, probabilities), abs=1e-12)
    expected = metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert found.figures["auc_macro"] == pytest.approx(expected, abs=1e-12)
    for name in AVERAGES:
        for figure in ("precision", "recall", "f1"):
            score = getattr(metrics, f"{figure}_score")(labels, logits.argmax(1), average=name)
            assert found.figures[f"{figure}_{name}"] == pytest.approx(score, abs=1e-12)
    for one, curve in enumerate(roc(logits, labels)):
        assert curve is not None
        assert metrics.auc(*curve) == pytest.approx(found.auc[one], abs=1e-12)
        assert (curve[0][0], curve[1][0], curve[0][-1], curve[1][-1]) == (0, 0, 1, 1)


def test_text_is_measured_place_by_place() -> None:
    logits, labels = sample(2)
    text = evaluate(logits.reshape(30, 10, 4), labels.reshape(30, 10))
    assert text == evaluate(logits, labels)
    assert float(cross_entropy(logits.reshape(30, 10, 4), labels.reshape(30, 10))) == pytest.approx(text.loss)


def test_a_class_without_samples_has_no_auc_and_json_no_nan() -> None:
    logits, labels = sample(3)
    logits[:, 3] = -100  # never predicted
    found = evaluate(logits[labels < 3], labels[labels < 3])
    assert found.auc[3] is None and None not in found.auc[:3] and "auc_macro" not in found.figures
    assert (found.precision[3], found.recall[3], found.f1[3]) == (0, 0, 0)
    assert roc(logits[labels < 3], labels[labels < 3])[3] is None
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["auc"][3] is None and json.loads(text)["reliability"][0] is None


def test_calibration_by_hand() -> None:
    confidence = np.array([0.0, 0.5, 0.55, 0.95, 1.0])
    error, bins = calibration(confidence, np.array([False, True, False, True, True]), bins=2)
    assert [one and one.samples for one in bins] == [2, 3]  # a bin holds its upper edge
    assert bins[0] == pytest.approx((0.25, 0.5, 2)) and bins[1] == pytest.approx((2.5 / 3, 2 / 3, 3))
    assert error == pytest.approx((2 * 0.25 + 3 * (2.5 / 3 - 2 / 3)) / 5)
    sure, labels = torch.tensor([[50.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    assert evaluate(sure, labels).calibration_error == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4), r"got shapes \(3, 2\) and \(4,\)"),
        (torch.zeros(0, 2), torch.zeros(0), "at least one"),
        (torch.tensor([[0.0, math.nan]]), torch.zeros(1), "finite logits are expected, got 1"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), r"labels in 0 … 1 are expected, got 0 … 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(logits, labels)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r'pip install "sparsekern\[evaluate\]"'):
        evaluate(*sample())


# ---- dead units


def test_planted_dead_units_are_counted_behind_modules_and_functions() -> None:
    lenet = zoo.model("lenet300", torch.Generator().manual_seed(0)).train()
    with torch.no_grad():
        lenet.fc1.bias[:7] = -1e3
    x = torch.randn(30, 784)
    first, second = dead_units(lenet, x, batch=8)
    assert first == (7, 300) and second.units == 100 and lenet.training
    conv = zoo.model("conv2", torch.Generator().manual_seed(0))
    with torch.no_grad():
        conv.features[2].bias[:5] = -1e3
    found = dead_units(conv, torch.randn(4, 3, 32, 32))
    assert [one.units for one in found] == [64, 64, 256, 256] and found[1].dead == 5


def test_a_unit_that_fires_once_is_alive() -> None:
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    model[0].weight.data[:] = 1
    x = torch.tensor([[-1.0], [-1.0], [-1.0], [1.0]])
    assert dead_units(model, x, batch=2) == ((0, 2),) and dead_units(model, x[:3], batch=2) == ((2, 2),)
    with pytest.raises(ValueError, match="Sequential calls no ReLU"):
        dead_units(nn.Sequential(nn.Linear(1, 1)), x)


# ---- over seeds


def test_the_interval_is_student_s() -> None:
    mean, low, high, seeds = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    # t of 4 degrees of freedom at 97.5 % is 2.7764451 in every table; the standard error is sqrt(2.5 / 5)
    assert (mean, seeds) == (3.0, 5) and high == pytest.approx(3 + 2.7764451052 * math.sqrt(0.5), abs=1e-9)
    assert low == pytest.approx(6 - high)
    assert interval([0.5]) == (0.5, None, None, 1)
    with pytest.raises(ValueError, match="at least one seed"):
        interval([])


def test_seeds_are_summed_up_figure_by_figure() -> None:
    every = [evaluate(*sample(seed)) for seed in range(3)]
    found = over_seeds(every)
    assert {"accuracy", "loss", "f1_macro", "auc_macro", "calibration_error"} <= set(found)
    assert found["loss"] == interval([one.loss for one in every])
    with pytest.raises(ValueError, match="at least one seed"):
        over_seeds([])


def test_matched_takes_five_seeds_and_a_mean_within_the_tolerance() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)

    def with_errors(count: int) -> Tensor:
        logits = torch.tensor([[1.0, 0.0]]).repeat(1000, 1)
        logits[:count] = torch.tensor([0.0, 1.0])
        return logits

    dense, near, far = (evaluate(with_errors(count), labels) for count in (20, 22, 23))
    assert match([dense] * 5, [near] * 5)[0] and not match([dense] * 5, [far] * 5)[0]
    assert match([dense] * 5, [near] * 5)[1].mean == pytest.approx(-0.2)
    assert not match([dense] * 4, [dense] * 4)[0]
    with pytest.raises(ValueError, match="got 1 and 2"):
        match([dense], [dense, near])
