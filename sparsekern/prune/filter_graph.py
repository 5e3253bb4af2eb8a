"""Filter pruning in networks with branches: Torch-Pruning says what goes with a filter.

In a residual network the filters of several layers meet in an addition and can only go together. Which do is
what Torch-Pruning's dependency graph knows (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning",
arXiv 2301.12900); it comes with the extra `prune`. Which filters go is ranked by our criteria, and what went
is compared with the whole network. Chains of layers need none of it: `sparsekern.prune.filters`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsekern.prune.axes import quiet, run
from sparsekern.prune.criteria import CRITERIA, Context
from sparsekern.prune.layers import pruned_layers
from sparsekern.prune.outputs import difference, tensors_in
from sparsekern.prune.tables import as_table

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_STUMBLES = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError)
"""What Torch-Pruning raises where it cannot follow a network."""


@dataclass(frozen=True)
class FilterGroup:
    """Layers whose filters go together.

    Attributes:
        layers: their names, the one first whose filters `kept` counts.
        before: how many filters the first had.
        kept: which of them are left, int64 ascending.
        note: why all of them had to stay.
    """

    layers: tuple[str, ...]
    before: int
    kept: Tensor
    note: str


@dataclass(frozen=True)
class FilterReport:
    """What `remove_filters_in_graph_` took out and left alone; prints itself as a table.

    Parameters are counted in elements.
    """

    groups: tuple[FilterGroup, ...]
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        rows = [(", ".join(g.layers), str(g.before), str(len(g.kept)), g.note) for g in self.groups]
        table = as_table(("filters of", "before", "after", "note"), rows)
        return f"{table}\n{self.parameters_before:,} parameters before, {self.parameters_after:,} after"


def remove_filters_in_graph_(
    model: nn.Module,
    example_inputs: Any,
    share: float,
    criterion: str = "magnitude",
    ignore: Sequence[str] = (),
    context: Context | None = None,
) -> FilterReport:
    """Make a network of any graph smaller in place: each group of filters keeps this share, at least one.

    Filters of nn.Linear and nn.Conv2d that meet, as in the additions of a residual network, go together. They
    are ranked by the sum of their weights' scores over all these layers: by "magnitude" that is the L1 norm
    of Li et al. 2017 (arXiv 1608.08710). ignore: names of layers that keep all, and with them what goes with
    them. context: what the criterion looks at; its model is this one, in eval mode, if it names none.

    Each group is tried on a copy first: the small network must run on the example inputs and give what the
    whole one does when the next layers read zeros from the filters that go. If not, as for those of the
    output layer, it is left alone, and the report says why. Costs a copy, a trace and two forwards for each
    group. Parameters are new ones: make the optimizer afterwards.

    ImportError if Torch-Pruning is missing. ValueError, before anything is changed, for a share outside
    (0, 1], an unknown criterion or layer, a mask on a weight, what the criterion lacks, and example inputs
    that do not run.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share!r}")
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}: expected one of {sorted(CRITERIA)}")
    names = _candidates(model, ignore)
    context = replace(context or Context(), cache={})
    context = context if context.model is not None else replace(context, model=model)
    with quiet(model):
        run(model, example_inputs)
    before = sum(parameter.numel() for parameter in model.parameters())
    groups: list[FilterGroup] = []
    gone: dict[str, list[int]] = {}
    with _graph(model, example_inputs) as graph:
        for name in names:
            if any(name in group.layers for group in groups):
                continue
            layers, scores = _scored(graph, name, criterion, context)
            order = scores.sort(descending=True, stable=True).indices
            keep = max(1, round(share * len(order)))
            note = ", ".join(f"{one} is to be ignored" for one in layers if one in ignore)
            if not note and keep < len(order):
                trial = gone | {name: sorted(order[keep:].tolist())}
                note = _problem(graph, example_inputs, trial)
                gone = gone if note else trial
            kept = order.sort().values if note else order[:keep].sort().values
            groups.append(FilterGroup(layers, len(order), kept, note))
    _remove_(model, example_inputs, gone)
    after = sum(parameter.numel() for parameter in model.parameters())
    return FilterReport(tuple(groups), before, after)


def _candidates(model: nn.Module, ignore: Sequence[str]) -> list[str]:
    """The layers whose filters may go, by name; ValueError for a mask, or a name in `ignore` of no layer."""
    pruned_layers(model, ignore)
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise ValueError(f"{name}: plain Parameters are expected, call unmask_ first if it is masked")
    return [name.rpartition(".")[0] for name in pruned_layers(model)]


# ---- Torch-Pruning


@contextmanager
def _graph(model: nn.Module, example_inputs: Any) -> Iterator[Any]:
    """The dependency graph of the model in eval mode.

    It is read off the gradients' graph, so for as long as it is used everything wants a gradient.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError(
            'networks with branches need Torch-Pruning: pip install "sparsekern[prune]"'
        ) from error
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with quiet(model), torch.enable_grad():
        model.requires_grad_(True)
        try:
            yield _built(torch_pruning.DependencyGraph(), model, example_inputs)
        finally:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(wanted[name])


def _built(graph: Any, model: nn.Module, example_inputs: Any) -> Any:
    try:
        return graph.build_dependency(model, example_inputs, verbose=False)
    except _STUMBLES as error:
        raise ValueError(f"Torch-Pruning cannot follow {type(model).__name__}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _group(graph: Any, name: str, indices: Sequence[int]) -> Any:
    """What goes with these filters of a layer."""
    layer = graph.model.get_submodule(name)
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, indices)


def _scored(graph: Any, name: str, criterion: str, context: Context) -> tuple[tuple[str, ...], Tensor]:
    """The layers whose filters go with those of `name`, which comes first, and the scores of its filters."""
    names = {module: path for path, module in graph.model.named_modules()}
    layer = graph.model.get_submodule(name)
    scores = torch.zeros(len(layer.weight), dtype=torch.float64)
    if layer not in graph.module2node:
        return (name,), scores  # never called: Torch-Pruning will not remove its filters
    layers = []
    for item in _group(graph, name, range(len(scores))).items:
        module = item.dep.target.module
        if isinstance(module, nn.Linear | nn.Conv2d) and graph.is_out_channel_pruning_fn(item.dep.handler):
            layers.append(names[module])
            weight = module.weight.detach()
            own = CRITERIA[criterion](weight, context.of(f"{layers[-1]}.weight")).double().flatten(1).sum(1)
            scores.index_add_(0, torch.tensor(item.root_idxs), own.cpu()[item.idxs])
    return tuple(layers), scores


def _remove_(model: nn.Module, example_inputs: Any, gone: Mapping[str, Sequence[int]]) -> None:
    with _graph(model, example_inputs) as graph:
        for name, indices in gone.items():
            _group(graph, name, indices).prune()


# ---- the check


def _problem(graph: Any, example_inputs: Any, gone: Mapping[str, Sequence[int]]) -> str:
    """Why filters cannot go, tried on a copy; empty if they can."""
    small = copy.deepcopy(graph.model)
    try:
        _remove_(small, example_inputs, gone)
    except _STUMBLES as error:
        return f"Torch-Pruning cannot remove them: {_words(error)}"
    try:
        got = tensors_in(run(small, example_inputs))
    except ValueError as error:
        return f"without them it does not run: {_words(error.__cause__ or error)}"
    problem = difference(got, _silenced(graph, example_inputs, gone))
    return f"without them {problem}" if problem else ""


def _silenced(graph: Any, example_inputs: Any, gone: Mapping[str, Sequence[int]]) -> list[Tensor]:
    """What the whole network gives when the layers that read these filters read zeros."""
    handles = [
        item.dep.target.module.register_forward_pre_hook(partial(_with_zeros, item.idxs))
        for name, indices in gone.items()
        for item in _group(graph, name, indices).items
        if _reads(graph, item.dep)
    ]
    try:
        return tensors_in(run(graph.model, example_inputs))
    finally:
        for handle in handles:
            handle.remove()


def _reads(graph: Any, dependency: Any) -> bool:
    """Whether a layer sums over the channels that go; a depthwise one does not."""
    handler, module = dependency.handler, dependency.target.module
    inputs = graph.is_in_channel_pruning_fn(handler) and not graph.is_out_channel_pruning_fn(handler)
    return inputs and isinstance(module, (nn.Linear, *_CONVOLUTIONS))


def _with_zeros(indices: Sequence[int], layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Zeros in place of these channels of what a layer is given."""
    dim = 1 - cast(Tensor, layer.weight).dim()  # -1 of nn.Linear; before the positions of a convolution
    channels = torch.tensor(list(indices), device=given[0].device)
    return (given[0].index_fill(dim, channels, 0), *given[1:])
