"""suggest_block times with the package's own kernels where nothing else is given."""

from __future__ import annotations

import torch
from torch import nn

import sparsekern as sk
from sparsekern.nn import time_block
from sparsekern.prune.suggest import suggest_block


def test_it_times_a_layer_or_says_why_not() -> None:
    linear, x = nn.Linear(64, 96), torch.randn(32, 64)
    mask = torch.rand(96, 64) > 0.9
    times = time_block(linear, mask, (1, 1), x)
    assert not isinstance(times, str) and min(times) > 0
    assert isinstance(time_block(linear, mask, (4, 4), x), str)
    assert "no sparse layer replaces LayerNorm" in time_block(nn.LayerNorm(4), mask, (1, 1), x)


def test_suggest_block_has_times() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 32))
    sk.prune.prune_(model, 0.9)
    table = suggest_block(model, torch.randn(4, 3, 8, 8), blocks=((1, 1), (16, 1)))
    assert len(table.rows) == 4 and all(row.speedup is not None and row.speedup > 0 for row in table.rows)
