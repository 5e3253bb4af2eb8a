"""What `regroup_` did, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sparsekern.prune.permute import Group
from sparsekern.prune.tables import as_table


@dataclass(frozen=True)
class RegroupedLayer:
    """What became of one weight.

    Attributes:
        ticket: the share of it that was alive.
        density: the share in the blocks chosen, which a kernel computes.
        kept_before: the share of the ticket's magnitude (L1) in the best blocks, had nothing moved.
        kept: the share of it in the blocks chosen.
        note: why rows or columns stayed where they were.
    """

    name: str
    block: tuple[int, int]
    ticket: float
    density: float
    kept_before: float
    kept: float
    note: str


@dataclass(frozen=True)
class RegroupReport:
    """What `regroup_` did; prints itself as a table.

    `order` says which unit went where: `permuted(state, report.order)` brings weights to rewind to into line.
    """

    layers: tuple[RegroupedLayer, ...]
    order: dict[Group, Tensor] = field(repr=False)

    def __str__(self) -> str:
        head = ("layer", "block", "ticket", "density", "kept before", "kept", "note")
        return as_table(head, [_row(layer) for layer in self.layers])


def _row(layer: RegroupedLayer) -> tuple[str, ...]:
    shares = (layer.ticket, layer.density, layer.kept_before, layer.kept)
    high, wide = layer.block
    return (layer.name, f"{high}x{wide}", *(f"{share:.1%}" for share in shares), layer.note)
