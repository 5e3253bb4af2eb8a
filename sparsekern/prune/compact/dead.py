"""Which units of a network do nothing, and what of theirs goes into the layers that read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from sparsekern.prune.axes import Flow, Read, Space, Traced, flow_of, given, is_pointwise, plain
from sparsekern.prune.compact.constants import Reading, readings
from sparsekern.prune.permute import Group, groups_by_space, places

_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True, eq=False)
class Reader:
    """A weight, (out, channels, taps), that sums over units.

    rows, columns: for the spaces that its outputs and its channels are made of, the index at each, -1 for
    none. constant, number: which channels always give the same number, and which. padded: zeros stand beside
    them. owner: the layer whose own weight and bias these are; empty if there is none. into: for a channel
    that goes, the one whose weights take over its constant; -1 where the bias does.
    """

    rows: dict[Space, Tensor]
    columns: dict[Space, Tensor]
    weight: Tensor
    constant: Tensor
    number: Tensor
    padded: bool
    owner: str
    into: Tensor

    @property
    def live(self) -> Tensor:
        """Where any tap is not zero, (out, channels)."""
        return (self.weight != 0).any(dim=2)

    @property
    def folds(self) -> Tensor:
        """The channels of which nothing is lost if they go, (channels,)."""
        anywhere = (self.into >= 0) | (not self.padded)
        return self.constant & ((self.number == 0) | (anywhere & bool(self.owner)))

    def needs(self, read: Tensor) -> Tensor:
        """The channels that it cannot do without of those that it reads: what does not fold, and what others
        fold into."""
        folds = self.folds
        needed = read & ~folds
        needed[self.into[read & folds & (self.number != 0) & (self.into >= 0)]] = True
        return needed


@dataclass(frozen=True)
class Candidates:
    """The readers, the spaces that may lose units, with their groups, and those that must `stay` whole."""

    spaces: dict[Space, Group]
    stay: dict[Space, Group]
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class Additions:
    """What layers, by name, take over: `bias` (out,), and `weight` (out, taps) for a channel; float64."""

    bias: dict[str, Tensor]
    weight: dict[tuple[str, int], Tensor]


def candidates_of(model: nn.Module, traced: Traced) -> Candidates:
    """What `model` could do without. Runs its graph once, without gradients."""
    flow = flow_of(traced)
    groups = groups_by_space(traced, flow)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = readings(traced, tensors, flow.reads)
    readers = [
        _reader(flow, read, reading, _owner(model, traced, flow.reads, read))
        for read, reading in found.items()
    ]
    unclear = {space for read in flow.reads if read not in found for space in places(flow.of(read.weight)[1])}
    used = {space: groups[space] for reader in readers for space in reader.columns if space in groups}
    free = {s: group for s, group in used.items() if not s.fixed and not s.sized and s not in unclear}
    for space in free:
        readers = _merged(space, readers)
    return Candidates(free, {s: group for s, group in used.items() if s not in free}, tuple(readers))


def alive_units(spaces: Collection[Space], readers: Sequence[Reader]) -> dict[Space, Tensor]:
    """Of each space the units that something needs, bool (size,), at least one: those that a live weight
    reads in a row that is itself alive, unless nothing is lost if they go. A fixed point, as every row that
    goes may take the last reader from other units."""
    alive = {space: torch.ones(space.size, dtype=torch.bool) for space in spaces}
    tables = [(reader, reader.live) for reader in readers]
    changed = True
    while changed:
        changed = False
        for space, before in alive.items():
            needed = torch.zeros_like(before)
            for reader, live in tables:
                if space in reader.columns:
                    used = reader.needs(live[_kept(reader.rows, alive)].any(dim=0))
                    unit = reader.columns[space]
                    needed[unit[used & (unit >= 0)]] = True
            needed &= before
            if not bool(needed.any()):
                needed[before.nonzero()[0]] = True  # a layer of no units is none
            if not torch.equal(needed, before):
                alive[space], changed = needed, True
    return alive


def additions_of(alive: Mapping[Space, Tensor], readers: Sequence[Reader]) -> Additions:
    """What the readers take over from the constant units that go."""
    found = Additions({}, {})
    for reader in readers:
        gone = ~_kept(reader.columns, alive) & reader.folds & (reader.number != 0)
        parts = reader.weight.double() * reader.number.double()[:, None]
        to_bias = gone & (reader.into < 0)
        if bool(to_bias.any()):
            found.bias[reader.owner] = parts[:, to_bias].sum(dim=(1, 2))
        for channel in set(reader.into[gone & (reader.into >= 0)].tolist()):
            moved = parts[:, gone & (reader.into == channel)].sum(dim=1) / reader.number[channel].double()
            found.weight[reader.owner, channel] = moved
    return found


def constant_units(space: Space, readers: Sequence[Reader]) -> Tensor:
    """The units that live weights read although all of these always get the same number, bool (size,)."""
    read = torch.zeros(space.size, dtype=torch.bool)
    varies = torch.zeros_like(read)
    for reader in readers:
        if space in reader.columns:
            unit = reader.columns[space]
            reads = reader.live.any(dim=0) & (unit >= 0)
            read[unit[reads]] = True
            varies[unit[reads & ~reader.constant]] = True
    return read & ~varies


def _kept(units: Mapping[Space, Tensor], alive: Mapping[Space, Tensor]) -> Tensor:
    """Which positions of a dimension are left when of each space only what is alive is."""
    left = [
        alive[space][unit.clamp(min=0)] | (unit < 0) if space in alive else torch.ones_like(unit).bool()
        for space, unit in units.items()
    ]
    kept: Tensor = torch.stack(left).all(dim=0) if left else torch.ones(1, dtype=torch.bool)
    return kept


def _reader(flow: Flow, read: Read, reading: Reading, owner: str) -> Reader:
    rows, columns = ({s: unit for s, (unit, _) in places(axis).items()} for axis in flow.of(read.weight)[:2])
    weight, constant, number = (part.cpu() for part in (reading.weight, reading.constant, reading.number))
    into = torch.full((weight.shape[1],), -1)
    return Reader(rows, columns, weight, constant, number, reading.padded, owner, into)


def _merged(space: Space, readers: Sequence[Reader]) -> list[Reader]:
    """The readers, where those that pad zeros beside constant units of a space add them up in one of them.

    A constant map with zeros around it is no bias, but all such maps are multiples of each other. The unit
    that stays is one that gives all of them other than 0.
    """
    padding = [r for r in readers if space in r.columns and r.padded and r.owner]
    least = torch.full((space.size,), torch.inf, dtype=torch.float64)
    for reader in padding:
        unit = reader.columns[space]
        size = torch.where(reader.constant, reader.number.double().abs(), 0)
        least.scatter_reduce_(0, unit.clamp(min=0), torch.where(unit >= 0, size, torch.inf), "amin")
    keeper = int(least.argmax())
    if not padding or not float(least[keeper]) > 0:
        return list(readers)
    return [
        _into(reader, reader.columns[space], keeper) if reader in padding else reader for reader in readers
    ]


def _into(reader: Reader, unit: Tensor, keeper: int) -> Reader:
    channel = int((unit == keeper).nonzero()[0])
    return replace(reader, into=torch.where((unit >= 0) & (unit != keeper), channel, reader.into))


def _owner(model: nn.Module, traced: Traced, reads: Sequence[Read], read: Read) -> str:
    """The name of the layer that reads with its own weight and bias, once; empty if there is none."""
    leaves = [read.weight] if read.weight in traced.leaves else read.weight.all_input_nodes
    if read.weight not in traced.leaves and not is_pointwise(read.weight):
        return ""
    names = {name for leaf in leaves for name in map(plain, traced.leaves.get(leaf, ("",)))}
    layer, _, tensor = next(iter(names)).rpartition(".")
    uses = sum(_uses(other.weight, leaf) for other in reads for leaf in leaves)
    if len(names) != 1 or tensor != "weight" or uses != len(leaves):
        return ""
    bias = given(read.node)["bias"]
    module = model.get_submodule(layer)
    named = f"{layer}.bias" if layer else "bias"
    fits = bias is None if getattr(module, "bias", None) is None else traced.leaves.get(bias) == (named,)
    return layer if isinstance(module, _Layer) and fits else ""


def _uses(weight: fx.Node, leaf: fx.Node) -> bool:
    return weight is leaf or leaf in weight.all_input_nodes
