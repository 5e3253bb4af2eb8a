"""examples/sentence_encoder.py on a small encoder: each method prunes it, and it recovers."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from other_networks import NETWORKS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location(
        "sentence_encoder", ROOT / "examples" / "sentence_encoder.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bert = NETWORKS["BERT"]()[0].eval()
    ids = torch.randint(1, 99, (200, 8))
    ids[::3, 5:] = 0
    monkeypatch.setattr(module, "CALIBRATION", 32)
    monkeypatch.setattr(module, "load", lambda _: (module.Encoder(bert), ids[:150], ids[150:]))
    monkeypatch.setattr(module, "latency", lambda *_: {})  # swap_ has its own tests
    return module


def test_the_example_runs(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        "--text",
        "any",
        "--sparsity",
        "0.7",
        "--block",
        "16x1",
        "--steps",
        "30",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["sentence_encoder.py", *arguments])
    example.main()
    (row,) = json.loads((tmp_path / "sentence_encoder.json").read_text("utf-8"))["rows"]
    shots = {name: shot["cosine"] for name, shot in row["one_shot"].items()}
    assert shots.keys() == {"magnitude", "wanda", "sparsegpt"} and row["block"] == [16, 1]
    assert max(shots.values()) < row["recovered"]["cosine"] <= 1
    assert "| 16x1 | 70% |" in (tmp_path / "sentence_encoder.md").read_text("utf-8")
