"""`sparsekern bench model` and `bench ticket`: what is printed and written of a network, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.bench import Timing, interleave
from sparsekern.cli import main
from sparsekern.cli.bench import forms, model
from sparsekern.cli.bench.forms import Outcome
from sparsekern.masks import dense_state, mask_
from sparsekern.nn import SparseLinear, SwapReport
from sparsekern.prune import prune_
from sparsekern.tickets import Ticket
from sparsekern.zoo import lenet300

QUICK = ("--budget", "0.01")

FACTORIES = """
import torch
from torch import nn
from sparsekern.nn import SwapReport
from sparsekern.prune import prune_

def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 10))

def pruned():
    network = dense()
    prune_(network, sparsity=0.75, block=(16, 1))
    return network

def by_torch():
    network = dense()
    nn.utils.prune.l1_unstructured(network[0], "weight", 0.5)
    return network

def stuck():
    network = pruned()
    network.out = network[0].bias * 2  # no leaf: deepcopy refuses it
    return network

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(2, 16), nn.Linear(16, 4)
        prune_(self.out, sparsity=0.5)
    def forward(self, ids, x):
        if x.sum() > 1e9:  # no graph can be traced of this
            return x
        return self.out(self.table(ids).mean(1) + x)

def plain(): return nn.ReLU()
def broken(): raise RuntimeError("no weights\\nhere")
def nothing(): return 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("made_for_a_test.py").write_text(FACTORIES)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Any:
    yield
    sys.modules.pop("made_for_a_test", None)


def bench(*arguments: str) -> int:
    return main(["bench", "model", *arguments, *QUICK])


def test_a_factory_is_timed_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("made_for_a_test:pruned", "--input", "1x40", "--batch", "2", "5", "--json", "r.jsonl")
    assert bench(*arguments) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == "" and "made_for_a_test:pruned on 5x40, 75.00 % zeros" in lines
    head = next(line for line in lines if line.startswith("| form"))
    assert head == "| form | p50 us | p90 us | p99 us | rows/s | memory MiB | file MiB | error |"
    assert sum(line.startswith("| torch |") for line in lines) == 2
    assert sum("swapped against the best dense of torch: " in line for line in lines) == 2
    assert "- channels_last: the network has no plain convolution" in lines
    assert sum(line.startswith("0  ") for line in lines) == 2  # its layers by name
    records = [json.loads(line) for line in Path("r.jsonl").read_text("utf-8").splitlines()]
    by_form = {record["provider"]: record for record in records[: len(records) // 2]}
    assert {"torch", "onednn", "swapped"} <= set(by_form) and "refusal" in by_form["channels_last"]
    swapped, eager = by_form["swapped"], by_form["torch"]
    assert swapped["problem"] == {
        **{"op": "model", "model": "made_for_a_test:pruned", "input": "2x40"},
        **{"sparsity": 0.75, "threads": 1},
    }
    weights = 4 * (40 * 64 + 64 + 64 * 10 + 10)
    assert eager["memory_bytes"] == weights and weights < eager["file_bytes"] < weights + 1000
    assert [layer["name"] for layer in swapped["layers"]] == ["0", "2"]
    assert all(record["median_us"] > 0 and len(record["samples_us"]) >= 5 for record in (swapped, eager))


def test_a_network_that_cannot_be_traced_and_takes_two_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("made_for_a_test:Words", "--input", "3x7:int64", "3x16") == 0
    said = capsys.readouterr()
    assert "made_for_a_test:Words on 3x7:int64 3x16, 50.00 % zeros" in said.out
    assert "- onnxruntime: is fed one input here, not 2" in said.out and said.err == ""


def test_what_torch_masked_is_timed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("made_for_a_test:by_torch", "--input", "3x40") == 0
    assert "made_for_a_test:by_torch on 3x40, 40.00 % zeros" in capsys.readouterr().out


def test_swapped_layers_hold_fewer_bytes() -> None:
    network = nn.Sequential(nn.Linear(256, 512))
    prune_(network, sparsity=0.9, block=(16, 1))
    outcome = Outcome("x")
    torch.manual_seed(0)
    plain = model.plain(network)
    model.measure_forms(
        outcome, plain, (torch.randn(64, 256),), (16, 1), lambda calls: interleave(calls, rounds=5)
    )
    if outcome.report.swapped:  # that depends on the machine
        memory, file = outcome.bytes["swapped"]
        assert memory < 0.25 * outcome.bytes["torch"][0] and file < 0.25 * outcome.bytes["torch"][1]
    assert outcome.bytes["torch"][0] == 4 * (256 * 512 + 512)


def test_memory_counts_the_index_of_a_kernel() -> None:
    network, outcome = nn.Sequential(nn.Linear(256, 512)), Outcome("x")
    prune_(network, sparsity=0.95)
    swapped = forms._swapped(model.plain(network), (torch.randn(64, 256),), outcome, (1, 1))
    (layer,) = swapped.children()
    if isinstance(layer, SparseLinear):  # that depends on the machine
        assert layer.index.numel() > 0
        assert outcome.bytes["swapped"][0] == layer.weight_nbytes + 4 * 512


@pytest.fixture
def state(here: Path) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 10))
    prune_(network, sparsity=0.5)
    safetensors.torch.save_file(dense_state(network), here / "state.safetensors")
    return here / "state.safetensors"


def test_a_state_dict_is_loaded_into_a_factorys_network(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(str(state), "--model", "made_for_a_test:dense", "--input", "3x40") == 0
    assert "state.safetensors on 3x40, 50.00 % zeros" in capsys.readouterr().out


@pytest.fixture
def ticket(here: Path) -> Path:
    network = lenet300.LeNet300(torch.Generator().manual_seed(0))
    rewind = {name: value.clone() for name, value in network.state_dict().items()}
    masks = {
        f"{name}.weight": torch.rand(layer.weight.shape) < 0.2 for name, layer in network.named_children()
    }
    for name, layer in network.named_children():
        mask_(layer, masks[f"{name}.weight"])
    config = {"task": {"model": "lenet300"}}
    Ticket(masks, rewind, dense_state(network), 0, config, {}).save(here / "ticket.safetensors")
    return here / "ticket.safetensors"


def test_a_ticket_is_the_network_it_is_of(ticket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ticket", str(ticket), "--batch", "4", "--json", "r.jsonl", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "ticket.safetensors on 4x1x28x28, 8" in said and "\nfc1 " in said
    name, made = model.load(str(ticket), None)
    assert name == "ticket.safetensors" and isinstance(made, lenet300.LeNet300)
    assert float((made.fc1.weight == 0).double().mean()) == pytest.approx(0.8, abs=0.01)


def test_the_zoo_says_what_its_networks_take() -> None:
    assert str(model.shape_of(zoo.model("lenet300"))) == "1x1x28x28"
    assert str(model.shape_of(zoo.model("transformer"))).endswith(":int64")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere:made", "--input", "1x2"), "nowhere:made makes no network: ModuleNotFoundError: No module"),
        (("made_for_a_test:gone", "--input", "1x2"), "made_for_a_test:gone makes no network: AttributeError"),
        (("made_for_a_test:broken", "--input", "1x2"), "makes no network: RuntimeError: no weights here"),
        (("made_for_a_test:nothing", "--input", "1x2"), "makes int, expected an nn.Module"),
        (("made_for_a_test:stuck", "--input", "1x40"), "Sequential cannot be copied with its masks baked in"),
        (("made_for_a_test:plain", "--input", "1x2"), "ReLU has no nn.Linear, nn.Conv1d or nn.Conv2d weight"),
        (
            ("made_for_a_test:dense", "--input", "1x40"),
            "Sequential has no zeros in the weights of its linear",
        ),
        (("made_for_a_test:pruned", "--input", "1x41"), "does not run on --input 1x41: RuntimeError: "),
        (
            ("made_for_a_test:pruned", "--input", "1x40", "1x3"),
            "does not run on --input 1x40, 1x3: TypeError",
        ),
        (("made_for_a_test", "--input", "1x2"), "expected module:factory or the path of a .safetensors file"),
        (("gone.safetensors", "--input", "1x2"), "gone.safetensors: a sparsekern ticket file is expected"),
        (("state.safetensors", "--input", "1x2"), "a whole sparsekern ticket file is expected"),
        (
            ("state.safetensors", "--model", "made_for_a_test:plain", "--input", "1x2"),
            "expected the state dict of made_for_a_test:plain",
        ),
        (
            ("gone.safetensors", "--model", "made_for_a_test:dense", "--input", "1x2"),
            "expected the state dict of made_for_a_test:dense",
        ),
        (
            ("made_for_a_test:pruned", "--model", "a:b", "--input", "1x2"),
            "expected with a .safetensors file only",
        ),
        (
            ("made_for_a_test:pruned", "--input", "1x40", "--resume"),
            "--resume: expected --json with the file",
        ),
    ],
)
def test_what_cannot_be_timed_is_one_line(
    arguments: tuple[str, ...], words: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err


def test_a_network_that_gives_no_tensor_is_refused() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(ValueError, match="Two gives tuple, expected a tensor: wrap it in the factory"):
        model.truth(Two(4, 4), (torch.randn(1, 4),))


@pytest.mark.parametrize("shape", ["1x", "0x3", "axb", "1x3:float16", ""])
def test_a_wrong_shape_is_refused(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench("made_for_a_test:pruned", "--input", shape)
    assert ended.value.code == 2 and "expected a shape such as 1x3x224x224" in capsys.readouterr().err


def test_percentiles_of_too_few_samples_are_left_out() -> None:
    outcome = Outcome(model.ModelCase("x", "1x2", 0.5))
    samples = tuple(float(time) for time in range(1, 51))
    outcome.times = {name: Timing(name, samples) for name in ("torch", "swapped")}
    outcome.errors = dict.fromkeys(outcome.times, 0.0)
    outcome.folded, outcome.reports = {"swapped": 0}, {"swapped": SwapReport(())}
    lines = list(model._about(outcome, rows=1))
    assert "| torch | 25.5 | 45.1 |  | 39,216 |  |  | 0e+00 |" in lines
    assert any(line.startswith("- 50 calls of each form, interleaved") for line in lines)
