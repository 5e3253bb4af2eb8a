"""A small causal Transformer on characters, in the form of GPT-2 (Radford et al. 2019): normalisation first.

Vaswani et al. 2017, arXiv 1706.03762, with learned positions. 826,433 parameters, 794,752 of them weights of
linear layers: 4 blocks of 196,608 and 8,320 to the 65 symbols. Queries, keys and values are layers of their
own, and the last layer shares nothing with the embedding, so that each can be masked and swapped alone.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from sparsekern.zoo.layers import gaussian, linear, scaled


class Block(nn.Module):
    """Attention, then two layers with a GELU between them, each around a shortcut (m, t, size).

    `heads` share `size`. What ends in the shortcut starts smaller by the root of the `depth` times two ends.
    """

    def __init__(
        self, size: int, heads: int, depth: int, generator: torch.Generator | None, dropout: float
    ) -> None:
        super().__init__()
        layer = partial(linear, generator=generator)
        end = partial(gaussian, std=0.02 / math.sqrt(2 * depth))
        self.heads = heads
        self.norm1 = nn.LayerNorm(size)
        self.query = layer(size, size, draw=gaussian)
        self.key = layer(size, size, draw=gaussian)
        self.value = layer(size, size, draw=gaussian)
        self.out = layer(size, size, draw=end)
        self.norm2 = nn.LayerNorm(size)
        self.up = layer(size, 4 * size, draw=gaussian)
        self.gelu = nn.GELU()
        self.down = layer(4 * size, size, draw=end)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(m, t, size) to (m, t, size); no place sees a later one."""
        y = self.norm1(x)
        query, key, value = (
            part(y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        result: Tensor = x + self.dropout(self.down(self.gelu(self.up(self.norm2(x)))))
        return result


class Transformer(nn.Module):
    """Symbols int64 (m, t) with t up to 128 to logits (m, t, 65) of the symbol that follows each.

    `generator` draws the weights, Gaussian with a deviation of 0.02, and nothing else is drawn; biases start
    at zero. `width` scales the size of each of the 4 heads. `dropout` is the rate behind the embedding and
    at the end of each branch; in training it draws from torch's own generator.
    """

    context, classes = 128, 65
    size, heads, depth = 128, 4, 4

    def __init__(
        self, generator: torch.Generator | None = None, *, width: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        size = self.heads * scaled(self.size // self.heads, width)
        self.symbols = _table(self.classes, size, generator)
        self.positions = _table(self.context, size, generator)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(Block(size, self.heads, self.depth, generator, dropout) for _ in range(self.depth))
        )
        self.norm = nn.LayerNorm(size)
        self.head = linear(size, self.classes, generator, gaussian)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, t, 65) of symbols int64 (m, t)."""
        places = self.positions.weight[: x.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(self.dropout(self.symbols(x) + places))))
        return logits


def _table(count: int, size: int, generator: torch.Generator | None) -> nn.Embedding:
    # Through "meta", since nn.Embedding itself would draw from torch's default generator.
    table = nn.Embedding(count, size, device="meta").to_empty(device="cpu")
    gaussian(table.weight, generator)
    return table
