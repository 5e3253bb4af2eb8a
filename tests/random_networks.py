"""Random networks: programs over feature maps in which what may change places, or go, is far from plain."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekern.masks import mask_, maskable

STEPS = (
    *("conv", "conv", "pointwise", "replicate", "transposed", "depthwise", "grouped", "again", "squeeze"),
    *("batch_norm", "relu", "hardswish", "prelu", "group_norm", "pool", "resize"),
    *("add", "gate", "cat", "chunk", "slice", "shuffle"),
)


class RandomNetwork(nn.Module):
    """(m, 4, 4, 4) to (m, 3): random steps on maps (m, channels, 4, 4), a way to vectors, two layers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.choose = random.Random(seed)
        self.layers = nn.ModuleList()
        self.program: list[tuple[str, int, int]] = []  # (step, map that it takes, what else it needs)
        self.channels = [4]
        for _ in range(self.choose.randint(4, 12)):
            self._grow(self.choose.choice(STEPS))
        self.end = self.choose.choice(["mean", "flatten", "attention"])
        last = self.channels[-1]
        self.hidden = nn.Linear(last * 16 if self.end == "flatten" else last, 12)
        self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, batch_first=True)
        self.middle, self.head = nn.Linear(12, 10), nn.Linear(10, 3)

    def _grow(self, step: str) -> None:
        latest = len(self.channels) - 1
        source = self.choose.randint(0, latest) if self.choose.random() < 0.4 else latest
        inputs, other = self.channels[source], self.choose.randint(0, latest)
        out = self.choose.choice([4, 6, 8])
        bias = self.choose.random() < 0.5
        made: dict[str, tuple[nn.Module | None, int]] = {
            "conv": (nn.Conv2d(inputs, out, 3, padding=1, bias=bias), out),
            "pointwise": (nn.Conv2d(inputs, out, 1, bias=bias), out),
            "replicate": (nn.Conv2d(inputs, out, 3, padding=1, padding_mode="replicate"), out),
            "transposed": (nn.ConvTranspose2d(inputs, out, 3, padding=1), out),
            "depthwise": (nn.Conv2d(inputs, 2 * inputs, 3, padding=1, groups=inputs), 2 * inputs),
            "batch_norm": (nn.BatchNorm2d(inputs), inputs),
            "relu": (nn.ReLU(), inputs),
            "hardswish": (nn.Hardswish(), inputs),
            "prelu": (nn.PReLU(inputs), inputs),
            "squeeze": (nn.Sequential(nn.Linear(inputs, 5), nn.ReLU(), nn.Linear(5, inputs)), inputs),
            "pool": (None, inputs),
            "resize": (None, inputs),
            "cat": (None, inputs + self.channels[other]),
        }
        if inputs % 2 == 0:
            made["grouped"] = nn.Conv2d(inputs, 8, 3, padding=1, groups=2), 8
            made["group_norm"] = nn.GroupNorm(2, inputs), inputs
            made["chunk"], made["shuffle"], made["slice"] = (None, inputs // 2), (None, inputs), (None, 1)
        if self.channels[other] == inputs:
            made["add"] = made["gate"] = None, inputs
        if self.layers and isinstance(self.layers[-1], nn.Conv2d):
            again = self.layers[-1]
            if again.in_channels == inputs:
                made["again"] = again, again.out_channels
        if step in made:
            layer, channels = made[step]
            self.program.append((step, source, len(self.layers) if layer is not None else other))
            self.channels.append(channels)
            if layer is not None:
                self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for step, source, other in self.program:
            maps.append(self._step(step, maps[source], maps, other))
        y = maps[-1]
        if self.end == "mean":
            y = self.hidden(y.mean((2, 3)))
        elif self.end == "flatten":
            y = self.hidden(y.flatten(1))
        else:
            tokens = self.norm(self.hidden(y.flatten(2).transpose(1, 2)))
            y = (tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]).mean(1)
        logits: Tensor = self.head(F.relu(self.middle(F.relu(y))))
        return logits

    def _step(self, step: str, y: Tensor, maps: list[Tensor], other: int) -> Tensor:
        m, channels, h, w = y.shape
        if step == "squeeze":
            return y * torch.sigmoid(self.layers[other](y.mean((2, 3))))[:, :, None, None]
        plain = {
            "add": lambda: y + maps[other],
            "gate": lambda: y * torch.sigmoid(maps[other]),
            "cat": lambda: torch.cat([y, maps[other]], 1),
            "chunk": lambda: y.chunk(2, 1)[1],
            "slice": lambda: y[:, 1:2],
            "pool": lambda: F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 1),
            "resize": lambda: F.interpolate(F.avg_pool2d(y, 2), scale_factor=2),
            "shuffle": lambda: y.view(m, 2, channels // 2, h, w).transpose(1, 2).reshape(m, channels, h, w),
        }
        return plain[step]() if step in plain else self.layers[other](y)


def unsettled_(model: nn.Module) -> None:
    """Give every number that starts at 0 or 1 a value of its own, drawn from torch's default generator."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm | nn.PReLU):
            nn.init.normal_(module.weight)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.normal_(module.bias)


def kill_units_(model: nn.Module, share: float, density: float = 1.0) -> None:
    """Masks in which that share of the rows and of the input channels of each layer is dead, and of the rest
    the share `density` is alive."""
    for name, layer in maskable(model).items():
        if not name.startswith("attention"):
            mask = torch.rand(layer.weight.shape) < density
            mask[torch.rand(len(mask)) < share] = False
            mask[:, torch.rand(mask.shape[1]) < share] = False
            mask_(layer, mask)
