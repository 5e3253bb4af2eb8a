"""`sparsekern bench network`: masked networks, all forms checked, what is printed and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.bench import Timing
from sparsekern.cli import main
from sparsekern.cli.bench import forms, network
from sparsekern.cli.bench.forms import DENSE_FORMS, FORMS, SWAPPED, Outcome
from sparsekern.cli.bench.network import NetworkCase, masked_network
from sparsekern.cli.bench.presets import NETWORKS
from sparsekern.masks import maskable


class Small(nn.Module):
    """A network in a second: two convolutions of which the first is followed by all that can be folded."""

    image, classes = (3, 10, 10), 4

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.conv1, self.conv2 = zoo.layers.Convs(generator)(3, 16, 3), zoo.layers.Convs(generator)(16, 16, 3)
        self.bn, self.relu = nn.BatchNorm2d(16), nn.ReLU()
        self.fc = zoo.layers.linear(16, 4, generator)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv1(x)))
        return self.fc((self.conv2(x) + x).mean((2, 3)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo.MODELS, "small", Small)


def test_the_networks_that_are_timed_are_in_the_zoo() -> None:
    assert set(NETWORKS) <= set(zoo.MODELS) and SWAPPED not in DENSE_FORMS


@pytest.mark.parametrize("block", [(1, 1), (16, 1)], ids=str)
def test_masks_have_their_share_of_zeros(small: None, block: tuple[int, int]) -> None:
    case = NetworkCase("small", 2, 0.75, block)
    model, again = masked_network(case), masked_network(case)
    for name, layer in maskable(model).items():
        zeros = float((layer.weight == 0).double().mean())
        assert zeros == pytest.approx(0.75, abs=0.02), name
        assert torch.equal(layer.weight, maskable(again)[name].weight)
    assert not model.training and float(model.bn.running_var.std()) > 0.1
    if block == (16, 1):
        rows = (model.conv2.weight != 0).flatten(1)
        assert bool((rows == rows[0]).all())


def test_a_run_prints_decisions_and_a_table_and_writes_every_form(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"
    arguments = ["--batch", "1", "3", "--budget", "0.01", "--sparsity", "0.8", "--json", str(path)]
    assert main(["bench", "network", "small", *arguments]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == "" and "1 thread(s)" in lines[0]
    assert sum(text == "small, batch 1" for text in lines) == 1
    assert sum(text.endswith(" modules folded into sparse layers") for text in lines) == 2
    assert sum(text.startswith("conv2 ") for text in lines) == 2
    rows = [text for text in lines if text.startswith("| small |")]
    assert [text.split("|")[2:5] for text in rows] == [[f" {batch} ", " 80 % ", " 1x1 "] for batch in (1, 3)]
    records = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    assert {record["provider"] for record in records} == set(FORMS)
    assert records[0]["problem"] == {
        "op": "network",
        "network": "small",
        "batch": 1,
        "sparsity": 0.8,
        "block": [1, 1],
        "threads": 1,
    }
    ours = [record for record in records if record["provider"] == "swapped"]
    assert len(ours) == 2 and all(record["median_us"] > 0 and record["error"] < 1e-4 for record in ours)
    assert set(ours[0]["speedup"]) == {"value", "low", "high"}


def test_a_wrong_swapped_network_ends_the_run(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def off(model: nn.Module, example_inputs: object) -> Any:
        model.fc.bias.data += 1
        return fused(model, example_inputs)

    fused = forms.fuse_
    monkeypatch.setattr(forms, "fuse_", off)
    assert main(["bench", "network", "small", "--batch", "1", "--budget", "0.01"]) == 2
    assert "sparsekern: swapped small is off by " in capsys.readouterr().err


def test_a_wrong_dense_form_is_not_timed(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_onnxruntime", lambda model, inputs: lambda x: 1.1 * model(x))
    outcome = network.measure_network(NetworkCase("small", 1, 0.5, (1, 1)), 0.01)
    assert outcome.refusals["onnxruntime"].startswith("off by 1.0e-01 of the largest output")
    assert "onnxruntime" not in outcome.times and {"torch", "fused"} <= set(outcome.times)


def test_the_swapped_form_is_compared() -> None:
    times = {"torch": 9.0, "fused": 6.0, "onnxruntime": 2.0, "swapped": 3.0}
    outcome = Outcome(NetworkCase("small", 1, 0.9, (1, 1)))
    outcome.times = {name: Timing(name, (time,) * 5) for name, time in times.items()}
    ratios = [outcome.against("torch"), outcome.against(*DENSE_FORMS[:-1]), outcome.against("onnxruntime")]
    assert [ratio.value for ratio in ratios if ratio] == pytest.approx([3.0, 2.0, 2 / 3])
    assert outcome.against("onednn") is None


def test_an_unknown_network_is_refused_before_anything_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "network", "resnet20", "lenet5"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "unknown network 'lenet5': expected some of ['lenet300'," in said.err
