"""fuse_: batch norms and activations that follow a swapped layer become part of it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsekern.nn.conv import SparseConv2d
from sparsekern.nn.fuse_graph import activation_of, fold_calls_, has_hooks, only_user, sizes_of
from sparsekern.nn.layer import SparseLayer
from sparsekern.nn.quantized import QuantizedSparseLinear
from sparsekern.nn.report import as_table
from sparsekern.nn.swap import evaluating

_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
_Follow = Callable[[str], tuple[str | None, str]]
"""The name of the module that alone takes what the named one gives; or None, and the reason in words."""

_TRACING_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    NameError,
)


@dataclass(frozen=True)
class FusedLayer:
    """A swapped layer: the modules that were folded into it, and why what comes next was not."""

    name: str
    folded: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class FuseReport:
    """What ``fuse_`` did. ``print(report)`` shows the table; ``found_by`` says how neighbours were found."""

    layers: tuple[FusedLayer, ...]
    found_by: str

    @property
    def folded(self) -> tuple[str, ...]:
        """The modules that are part of a sparse layer now, by the names where an nn.Identity stands."""
        return tuple(name for layer in self.layers for name in layer.folded)

    def __str__(self) -> str:
        rows = [[layer.name, ", ".join(layer.folded), layer.reason] for layer in self.layers]
        table = as_table(("layer", "folded into it", "why no more"), rows)
        return f"{table}\n{len(self.folded)} modules folded into sparse layers; neighbours: {self.found_by}"


def fuse_(model: nn.Module, example_inputs: Any = None) -> FuseReport:
    """Folds what follows swapped layers into them, in place; an ``nn.Identity`` stands where it stood.

    An ``nn.BatchNorm2d`` in eval mode that directly follows a ``SparseConv2d``, or an ``nn.BatchNorm1d`` a
    ``SparseConv1d`` or ``SparseLinear``, goes into its values and its bias; an ``nn.ReLU`` or ``nn.GELU``
    (not of tanh) that follows then is applied by the kernel. Who follows whom is read from a symbolic trace
    of the model (``torch.fx``), which sees no branch on the type of an input; a model that cannot be traced
    is searched for neighbours in its ``nn.Sequential`` instead, whose members must not be called singly as
    well.
    Modules that are used in several places are left alone, and so are functions, and what follows a layer
    that is called with a residual.

    They are folded too where the model is a graph, which ``torch.fx.symbolic_trace`` makes of it before the
    swap: each call stands there for itself. An activation by a function or a shared module goes into the
    layer before it, and so does, given ``example_inputs``, what is added to the output of a ``SparseConv2d``
    in between, if it is of the same size.

    A ``SparseLinear`` before a batch norm is taken to see rows (m, k), as nearly all do: of inputs
    (batch, n, k), ``nn.BatchNorm1d`` would norm another dimension. An optimizer must be made afterwards.
    ``restore_`` does not unfold: what it puts back is the dense layer with the folded weight.

    Args:
        model: any module with layers that ``swap_`` replaced.
        example_inputs: what it is called with, as for ``swap_``; a graph is run on them once.

    Raises:
        ValueError: a batch norm to fold is in training mode; nothing is changed then.
    """
    modules = dict(model.named_modules())
    swapped = {name: layer for name, layer in modules.items() if isinstance(layer, SparseLayer)}
    if not swapped:
        return FuseReport((), "none looked for, as no layer is swapped")
    follow, found_by = _neighbours(model, modules)
    chains = [_chain_of(model, modules, name, follow) for name in swapped]
    _refuse_training(chains)
    graph = model if isinstance(model, fx.GraphModule) else None
    with evaluating(model):
        sizes = {} if graph is None or example_inputs is None else sizes_of(graph, example_inputs)
    for chain in chains:
        chain.put_identities(model)
    if found_by == _TRACED and not _same_trace(model, chains):
        for chain in chains:
            chain.put_back(model)
        return FuseReport(
            tuple(FusedLayer(name, (), "the model reaches modules past their places") for name in swapped),
            found_by,
        )
    for chain in chains:
        chain.fold_()
    free = {chain.name: chain.layer for chain in chains if not chain.stays}
    beyond = {} if graph is None else fold_calls_(graph, free, sizes)
    done = tuple(chain.report(*beyond.get(chain.name, ((), chain.reason))) for chain in chains)
    return FuseReport(done, found_by)


def _refuse_training(chains: list[_Chain]) -> None:
    for chain in chains:
        for name, module in zip(chain.names, chain.modules, strict=True):
            if module.training and isinstance(module, _BatchNorm):
                raise ValueError(
                    f"{type(module).__name__} {name!r} is in training mode: its statistics still change; "
                    "expected model.eval() before fuse_"
                )


@dataclass
class _Chain:
    """A sparse layer and what can be folded into it, in order; why no more."""

    name: str
    layer: SparseLayer
    names: list[str] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)
    reason: str = ""
    stays: bool = False  # whatever follows it

    def is_full(self) -> bool:
        """Whether there is an activation, after which nothing can be folded."""
        norms_only = all(isinstance(module, _BatchNorm) for module in self.modules)
        return self.layer.activation is not None or not norms_only

    def report(self, beyond: tuple[str, ...], reason: str) -> FusedLayer:
        return FusedLayer(self.name, (*self.names, *beyond), reason)

    def put_identities(self, model: nn.Module) -> None:
        for name, module in zip(self.names, self.modules, strict=True):
            _put(model, name, nn.Identity().train(module.training))

    def put_back(self, model: nn.Module) -> None:
        for name, module in zip(self.names, self.modules, strict=True):
            _put(model, name, module)

    def fold_(self) -> None:
        for module in self.modules:
            if isinstance(module, _BatchNorm):
                _fold_norm_(self.layer, module)
            else:
                self.layer.activation = activation_of(module)
        if self.modules:
            vars(self.layer).pop("_replaced", None)  # the layer that was there is not this one any more


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = module


# ---- who follows whom

_TRACED = "by a trace"


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        sparse = isinstance(m, SparseLayer | QuantizedSparseLinear)
        return sparse or super().is_leaf_module(m, module_qualified_name)


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """A forward that is traced may hang proxies of tensors on the modules: what they had comes back."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def _trace(model: nn.Module, defaults: dict[str, Any] | None = None) -> fx.Graph:
    with _attributes_kept(model):
        return _Tracer().trace(model, concrete_args=defaults)


def _optional_arguments(model: nn.Module) -> dict[str, Any]:
    """A trace takes every argument as given: what a model does without is seen in a second one."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _neighbours(model: nn.Module, modules: dict[str, nn.Module]) -> tuple[_Follow, str]:
    optional = _optional_arguments(model)
    try:
        graphs = [_trace(model), *([_trace(model, optional)] if optional else [])]
    except _TRACING_ERRORS as error:
        words = str(error).splitlines() or [""]
        because = f"a trace of the model failed with {type(error).__name__}: {words[0]}"
        return _in_sequentials(modules), f"in nn.Sequential only, since {because}"
    return _in_all([_in_graph(graph) for graph in graphs]), _TRACED


def _in_all(traces: list[_Follow]) -> _Follow:
    def follow(name: str) -> tuple[str | None, str]:
        found = [trace(name) for trace in traces]
        if any(after != found[0][0] for after, _ in found):
            return None, "what follows depends on an argument that may be left out"
        return found[0]

    return follow


def _in_graph(graph: fx.Graph) -> _Follow:
    calls: dict[object, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(node.target, []).append(node)
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}

    def follow(name: str) -> tuple[str | None, str]:
        if len(calls.get(name, ())) != 1:
            return None, f"it is called {len(calls.get(name, ()))} times in the model"
        if name in read:
            return None, "the model reads its weight or bias past its forward"
        after, reason = only_user(calls[name][0])
        if after is not None and len(calls[after]) > 1:
            return None, f"{after}, which follows, is called {len(calls[after])} times"
        return after, reason

    return follow


def _same_trace(model: nn.Module, chains: list[_Chain]) -> bool:
    """Whether the model now calls each nn.Identity that was put into it, once."""
    try:
        graph = _trace(model)
    except _TRACING_ERRORS:
        return False
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    return all(calls[name] == 1 for chain in chains for name in chain.names)


def _in_sequentials(modules: dict[str, nn.Module]) -> _Follow:
    def follow(name: str) -> tuple[str | None, str]:
        parent, _, child = name.rpartition(".")
        if type(modules[parent]) is not nn.Sequential:
            return None, "it stands in no nn.Sequential"
        names = list(modules[parent]._modules)
        after = names.index(child) + 1
        if after == len(names):
            return None, "it is the last of its nn.Sequential"
        return f"{parent}.{names[after]}" if parent else names[after], ""

    return follow


# ---- what can be folded


def _chain_of(model: nn.Module, modules: dict[str, nn.Module], name: str, follow: _Follow) -> _Chain:
    layer = modules[name]
    assert isinstance(layer, SparseLayer)
    places = Counter(id(child) for m in model.modules() for child in m._modules.values())
    chain = _Chain(name or "(the layer itself)", layer)
    if places[id(layer)] > 1:
        chain.reason = "it stands in several places"
    elif _is_shared(model, layer):
        chain.reason = "its values belong to another layer too"
    elif has_hooks(layer):
        chain.reason = "it has hooks, which may see or change its output"
    chain.stays = bool(chain.reason)
    current: str | None = name
    while not chain.reason and current is not None and not chain.is_full():
        current, chain.reason = follow(current)
        if current is None:
            break
        module = modules.get(current)
        if type(module) is nn.Identity and not has_hooks(module):
            continue
        if module is None or places[id(module)] > 1:  # of several names of a module only one is known
            chain.reason = f"{current}, which follows, stands in several places"
        else:
            chain.reason = _why_not(layer, module, normed=bool(chain.modules))
        if module is not None and not chain.reason:
            chain.names.append(current)
            chain.modules.append(module)
    if layer.activation is not None:
        chain.reason = chain.reason or "it has an activation already"
    return chain


def _is_shared(model: nn.Module, layer: SparseLayer) -> bool:
    owned = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    return owned[id(layer.values)] > 1


def _why_not(layer: SparseLayer, module: nn.Module, normed: bool) -> str:
    """Why a module that follows cannot be folded; nothing if it can."""
    kind = type(module)
    if has_hooks(module):
        return f"{kind.__name__}, which follows, has hooks"
    if activation_of(module) is not None:
        return ""
    if kind is not (nn.BatchNorm2d if isinstance(layer, SparseConv2d) else nn.BatchNorm1d) or normed:
        return f"{kind.__name__} follows, which cannot be folded"
    assert isinstance(module, _BatchNorm)
    if module.running_mean is None or module.running_var is None:
        return f"{kind.__name__} follows, which keeps no statistics"
    if module.num_features != layer.matrix.shape[0]:
        return f"{kind.__name__} follows, of {module.num_features} features for {layer.matrix.shape[0]}"
    return ""


# ---- folding


def _fold_norm_(layer: SparseLayer, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """``(y - mean) / sqrt(var + eps) * gamma + beta`` of the layer's output ``y``, in its weight and bias;
    in float64, rounded once."""
    assert norm.running_mean is not None and norm.running_var is not None
    device = layer.values.device
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        shift = shift + norm.bias.detach().double()
    scale, shift = scale.to(device), shift.to(device)
    bias = layer.bias
    if bias is not None:
        shift = shift + bias.detach().double() * scale
    with torch.no_grad():
        layer.values.copy_(layer.values.double() * _by_block(layer, scale))
    # A new Parameter: a dense layer that the old one is shared with keeps its own.
    trains = layer.values.requires_grad if bias is None else bias.requires_grad
    layer.bias = nn.Parameter(shift.to(layer.values.dtype), requires_grad=trains)


def _by_block(layer: SparseLayer, scale: Tensor) -> Tensor:
    """(n,) as the blocks see it, (nnz, out, 1); padding beyond the last output counts once."""
    high = layer.block[0]
    outputs = layer.matrix.block_row()[:, None] * high + torch.arange(high, device=scale.device)
    return scale[outputs.clamp(max=len(scale) - 1)][:, :, None]
