"""Filter pruning: whole filters go, and the network becomes smaller; no mask and no zeros remain.

With a filter go its bias, its channel in the batch normalisations behind it, and all that the next layer
reads of it, through poolings and into the inputs of an nn.Linear behind a flatten (Li et al. 2017, "Pruning
Filters for Efficient ConvNets", arXiv 1608.08710). Filters are ranked by their L1 norm, as there:

    kept = choose_filters(model, {"features.0": 32})
    remove_filters_(model, kept)

It works on chains: networks in which each layer feeds one other. Networks with branches, as ResNets, are
for `sparsekern.prune.filter_graph`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

# What may stand between two layers: it treats each channel alone.
MODULES = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)
FUNCTIONS = (
    torch.relu,
    torch.tanh,
    torch.flatten,
    nn.functional.relu,
    nn.functional.gelu,
    nn.functional.silu,
    nn.functional.dropout,
    nn.functional.max_pool2d,
    nn.functional.avg_pool2d,
    nn.functional.adaptive_avg_pool2d,
)
METHODS = ("relu", "tanh", "flatten")

SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("out_channels", "in_channels"),
    nn.Linear: ("out_features", "in_features"),
    nn.BatchNorm1d: ("num_features",),
    nn.BatchNorm2d: ("num_features",),
}
"""The attributes that say how many entries the weight has along its dimensions."""

_ANY_GRAPH = "a plain chain of layers is expected; remove_filters_in_graph_ takes networks with branches"


@dataclass(frozen=True)
class Link:
    """A layer whose filters can go: its name, those of the batch normalisations behind it, and the next."""

    name: str
    norms: tuple[str, ...]
    reader: str


def find_chain(model: nn.Module) -> tuple[Link, ...]:
    """The layers whose filters can be removed, in order: every nn.Conv2d and nn.Linear but the last.

    What feeds what is read from a symbolic trace (torch.fx). An nn.Linear is taken to read (m, features).
    ValueError, in words, for a network that cannot be traced, branches between its layers, uses a layer
    twice, groups channels, ties or masks a weight, or has between its layers what is not known to treat each
    channel alone (MODULES, FUNCTIONS, METHODS).
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(f"{type(model).__name__} cannot be traced ({error}): {_ANY_GRAPH}") from error
    nodes = list(graph.nodes)
    places = [at for at, node in enumerate(nodes) if isinstance(_module(model, node), nn.Conv2d | nn.Linear)]
    if not places:
        raise ValueError(f"{type(model).__name__} calls no nn.Conv2d or nn.Linear")
    used = [str(nodes[at].target) for at in places]
    if twice := {name for name in used if used.count(name) > 1}:
        raise ValueError(f"layers {sorted(twice)} are used more than once: {_ANY_GRAPH}")
    return tuple(_link(model, nodes[first : last + 1]) for first, last in pairwise(places))


def _module(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _link(model: nn.Module, nodes: Sequence[fx.Node]) -> Link:
    """The link from the first of `nodes`, which is a layer, to the last, which is the next one."""
    for before, node in pairwise(nodes):
        readers, sources = [user.name for user in before.users], [each.name for each in node.all_input_nodes]
        if readers != [node.name]:
            raise ValueError(f"{before.name} is read by {readers}, not by one alone: {_ANY_GRAPH}")
        if sources != [before.name]:
            raise ValueError(f"{node.name} reads {sources}, not one alone: {_ANY_GRAPH}")
    between = nodes[1:-1]
    for node in between:
        _require_channelwise(model, node)
    norms = [node for node in between if isinstance(_module(model, node), nn.BatchNorm1d | nn.BatchNorm2d)]
    link = Link(str(nodes[0].target), tuple(str(node.target) for node in norms), str(nodes[-1].target))
    _require_prunable(model, link, flat=any(_flattens(model, node) for node in between))
    return link


def _flattens(model: nn.Module, node: fx.Node) -> bool:
    return node.target in ("flatten", torch.flatten) or isinstance(_module(model, node), nn.Flatten)


def _require_channelwise(model: nn.Module, node: fx.Node) -> None:
    """ValueError unless the node treats each channel alone; a flatten must join all but the samples."""
    module = _module(model, node)
    known = {"call_function": node.target in FUNCTIONS, "call_method": node.target in METHODS}
    if not (isinstance(module, MODULES) or known.get(node.op, False)):
        what = type(module).__name__ if module is not None else f"{node.op} {node.target}"
        raise ValueError(f"{node.name} ({what}) is not known to treat each channel alone: {_ANY_GRAPH}")
    if not _flattens(model, node):
        return
    given: dict[str, object] = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False))
    given |= node.kwargs if module is None else vars(module)
    first, last = given.get("start_dim", 0), given.get("end_dim", -1)
    if (first, last) != (1, -1):
        raise ValueError(f"{node.name} flattens dimensions {first} to {last}: 1 to -1 is expected")


def _require_prunable(model: nn.Module, link: Link, flat: bool) -> None:
    """ValueError unless weights are plain and their own, channels not grouped, and sizes fit each other."""
    every = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    for name in (link.name, *link.norms, link.reader):
        module = model.get_submodule(name)
        if groups := getattr(module, "groups", 1) - 1:
            raise ValueError(f"{name} has {groups + 1} groups of channels, 1 is expected: {_ANY_GRAPH}")
        if "weight" not in module._parameters:
            raise ValueError(f"{name}.weight must be a plain Parameter: call unmask_ first if it is masked")
        if any(every.count(id(own)) > 1 for own in module.parameters()):
            raise ValueError(f"{name} shares a parameter with another layer: {_ANY_GRAPH}")
    layer, reader = model.get_submodule(link.name), model.get_submodule(link.reader)
    if isinstance(layer, nn.Conv2d) and isinstance(reader, nn.Linear) and not flat:
        raise ValueError(f"{link.reader} reads the map of {link.name}, which nothing flattens: {_ANY_GRAPH}")
    count, inputs = _entries(layer, 0), _entries(reader, 1)
    if inputs % count or (inputs != count and not isinstance(layer, nn.Conv2d)):
        raise ValueError(f"{link.reader} reads {inputs} inputs, which do not fit the {count} of {link.name}")


def _entries(module: nn.Module, dim: int) -> int:
    """The size of a module's own along a dimension of its weight: outputs or features, and inputs."""
    kind = next(kind for kind in SIZES if isinstance(module, kind))
    return int(getattr(module, SIZES[kind][dim]))


def l1_norms(weight: Tensor) -> Tensor:
    """The sum of the absolute weights of each filter, float64 (out,) (Li et al. 2017, arXiv 1608.08710)."""
    return weight.detach().abs().to(torch.float64).flatten(1).sum(1)


def _large(weight: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.sort(l1_norms(weight), descending=True, stable=True).indices


def _small(weight: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.sort(l1_norms(weight), stable=True).indices


def _random(weight: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randperm(len(weight), generator=generator).to(weight.device)


ORDERS: dict[str, Callable[[Tensor, torch.Generator | None], Tensor]] = {
    "large": _large,
    "small": _small,
    "random": _random,
}
"""Who is kept first: filters of large norm are the method, the others its controls."""


def choose_filters(
    model: nn.Module,
    counts: Mapping[str, int],
    keep: str = "large",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The filters to keep, as ascending indices by layer (Li et al. 2017, arXiv 1608.08710).

    counts: how many filters each layer keeps; layers that are not named keep all. keep: one of ORDERS.
    generator: for "random"; None is torch's default. ValueError for an unknown order, a layer that is not in
    the chain (`find_chain`), or a count outside 1 … its filters.
    """
    if keep not in ORDERS:
        raise ValueError(f"unknown order {keep!r}: expected one of {list(ORDERS)}")
    _require_in_chain(counts, find_chain(model))
    kept = {}
    for name, count in counts.items():
        weight = model.get_submodule(name).get_parameter("weight")
        if type(count) is not int or not 1 <= count <= len(weight):
            raise ValueError(f"layer {name}: 1 to {len(weight)} filters can be kept, got {count!r}")
        kept[name] = ORDERS[keep](weight, generator)[:count].sort().values
    return kept


def channel_counts(model: nn.Module, share: float) -> dict[str, int]:
    """How many filters each nn.Conv2d of the chain keeps if it keeps this share of them, at least one.

    AlexNet with a share of 0.15 is the recipe that prunes 85 % of the channels. ValueError for a share
    outside (0, 1], and as `find_chain`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share!r}")
    layers = {link.name: model.get_submodule(link.name) for link in find_chain(model)}
    return {
        name: max(1, round(share * layer.out_channels))
        for name, layer in layers.items()
        if isinstance(layer, nn.Conv2d)
    }


def _require_in_chain(names: Mapping[str, object], chain: Sequence[Link]) -> None:
    removable = [link.name for link in chain]
    if unknown := names.keys() - set(removable):
        raise ValueError(f"layers {sorted(unknown)} have no filters to remove: expected some of {removable}")


@torch.no_grad()
def remove_filters_(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Make the network smaller in place: of each named layer, only the filters `kept` remain.

    kept: int64 indices by layer, ascending. The outputs are those of the whole network in which the next
    layers read zeros from the other filters. Parameters are new ones: make the optimizer afterwards. (Li et
    al. 2017, arXiv 1608.08710, figure 1.) ValueError, before anything is changed, for a layer that is not in
    the chain (`find_chain`), or for indices that are not ascending, out of range or none.
    """
    chain = find_chain(model)
    _require_in_chain(kept, chain)
    for name, indices in kept.items():
        count, listed = _entries(model.get_submodule(name), 0), indices.tolist()
        if not listed or listed != sorted(set(listed)) or listed[0] < 0 or listed[-1] >= count:
            raise ValueError(f"layer {name}: ascending indices in 0 … {count - 1} expected, got {listed}")
    for link in chain:
        if link.name in kept:
            layer, reader = model.get_submodule(link.name), model.get_submodule(link.reader)
            count = _entries(layer, 0)
            _select_(layer, 0, kept[link.name], count)
            for name in link.norms:
                _select_(model.get_submodule(name), 0, kept[link.name], count)
            _select_(reader, 1, kept[link.name], count)


def _select_(module: nn.Module, dim: int, kept: Tensor, count: int) -> None:
    """Keep along `dim` what belongs to the channels `kept` of `count`: behind a flatten, a run for each."""
    each = _entries(module, dim) // count
    chosen = (kept[:, None] * each + torch.arange(each, device=kept.device)).flatten()
    for name in ("weight",) if dim else ("weight", "bias", "running_mean", "running_var"):
        old = getattr(module, name, None)
        if old is not None:
            new = old.index_select(dim, chosen.to(old.device))
            setattr(module, name, nn.Parameter(new, old.requires_grad) if name in module._parameters else new)
    kind = next(kind for kind in SIZES if isinstance(module, kind))
    setattr(module, SIZES[kind][dim], len(chosen))
