"""The commands of docs/bench.md run, one after the other, made small."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from sparsekern.bench.export import EXPORTS
from sparsekern.cli import main
from sparsekern.cli.bench import full, limit
from sparsekern.cli.bench.presets import PRESETS, Grid, Preset
from sparsekern.cli.bench.presets_conv import PRESETS_CONV2D, ConvGrid, ConvPreset, ConvShape

PAGE = (Path(__file__).parents[1] / "docs" / "bench.md").read_text("utf-8")
SMALL = {
    "linear": "--shape 24x32 --budget 0.001",
    "conv2d": "--channels 6x16 --map 5 --batch 1 --block 1x1 --budget 0.001",
    "model": "--budget 0.01",
    "full": "",
}
FACTORIES = """
import torch
from torch import nn

def dense():
    return nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 4))

def pruned():
    network = dense()
    torch.nn.utils.prune.l1_unstructured(network[0], "weight", 0.8)
    return network
"""


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def test_the_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(limit, "_read_gbs", lambda nbytes: 20.0)
    monkeypatch.setattr(full, "NETWORKS", ())
    monkeypatch.setattr(full, "MOST_S", 0.01)
    monkeypatch.setitem(PRESETS, "survey", Preset((Grid(((24, 32),), ((1, 1),), (3,), (0.9,)),), 0.01))
    convolution = ConvGrid((ConvShape((6, 8), 3, 5),))
    monkeypatch.setitem(PRESETS_CONV2D, "survey", ConvPreset((convolution,), 0.01))
    Path("factories.py").write_text(FACTORIES)
    weight = torch.eye(16, 40)
    state = {
        "0.weight": weight,
        "0.bias": torch.zeros(16),
        "2.weight": torch.ones(4, 16),
        "2.bias": torch.zeros(4),
    }
    nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 4)).load_state_dict(state)
    safetensors.torch.save_file(state, "state.safetensors")
    for arguments in commands():
        small = SMALL[arguments[1]].split() if arguments[0] == "bench" else []
        assert main([*arguments, *small]) == 0, (arguments, capsys.readouterr().err)
    made = {"results.jsonl", "results.html", "asv-results", "full.jsonl", "full.html"}
    assert made <= {path.name for path in Path().iterdir()}
    assert "| linear | dtype | block |" in capsys.readouterr().out


def test_every_export_has_its_line() -> None:
    section = PAGE.split("## What can be made of it", 1)[1]
    assert re.findall(r"^\| `([\w-]+)` \|", section, flags=re.MULTILINE) == ["--to", *EXPORTS]
