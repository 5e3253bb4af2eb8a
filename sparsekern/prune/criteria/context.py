"""What a criterion may look at besides the weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Context:
    """`generator` draws for criteria that need chance; None is torch's default generator."""

    generator: torch.Generator | None = None
