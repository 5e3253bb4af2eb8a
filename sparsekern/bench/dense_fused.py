"""The fastest dense network that can be built of torch's own parts: folded, fused, every layer on what is
faster."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsekern.bench.dense_layers import OneDNNConv2d, OneDNNLinear, on_onednn, to_channels_last
from sparsekern.bench.graph import added, is_relu, only_reader
from sparsekern.bench.timing import interleave


@dataclass
class _Chain:
    """A layer, and behind it an addition, a ReLU, or both, that nobody else reads from within."""

    nodes: list[fx.Node]
    adds: bool = False
    relu: bool = False


class Fused(nn.Module):
    """A layer on oneDNN with what follows it: `relu(layer(x) + other)`, or part of that."""

    def __init__(self, layer: OneDNNLinear | OneDNNConv2d, relu: bool) -> None:
        super().__init__()
        self.layer = layer
        call: Callable[..., Tensor] = layer.call
        self.call = partial(call, unary="relu") if relu else call

    def forward(self, *given: Tensor) -> Tensor:
        """Of x, or of x and what is added."""
        return self.call(*given)


def fused_model(model: nn.Module, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """A network that computes what `model` does, which is in eval mode and free of parametrizations and is
    used up.

    `inputs` are what it will be timed on, channels_last where they are images.
    """
    folded = fold_norms(model)
    to_channels_last(folded)
    modules = dict(folded.named_modules())
    chains = {node: _chain(node, modules) for node in folded.graph.nodes if _is_layer(node, modules)}
    chooser = _Chooser(folded, chains)
    chooser.run(*inputs)
    taken: set[fx.Node] = set()
    for index, (node, layer) in enumerate(chooser.fused.items()):
        chain = chains[node]
        if not taken.isdisjoint(chain.nodes):  # where two layers are added, that goes with one of them
            chain, layer = _Chain([node]), Fused(layer.layer, relu=False)
        taken |= set(chain.nodes)
        folded.add_submodule(f"fused_{index}", layer)
        _put(folded.graph, chain, f"fused_{index}")
    folded.graph.lint()
    folded.recompile()
    return folded


def fold_norms(model: nn.Module) -> fx.GraphModule:
    """A copy of a network in eval mode, batch normalisation folded into the convolutions that it follows.

    Raises what `torch.fx` raises where it cannot trace the network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports TorchScript, which is on its way out
        from torch.fx.experimental import optimization

        folded: fx.GraphModule = optimization.fuse(model)  # type: ignore[assignment]
    return folded


def _is_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    return type(module) in (nn.Linear, nn.Conv2d) and len(node.args) == 1 and not node.kwargs


def _chain(node: fx.Node, modules: dict[str, nn.Module]) -> _Chain:
    chain, last = _Chain([node]), node
    following = only_reader(last)
    convolution = isinstance(modules[str(node.target)], nn.Conv2d)
    if convolution and following is not None and added(following, last) is not None:
        chain.nodes.append(following)
        chain.adds, last = True, following
        following = only_reader(last)
    if following is not None and is_relu(following, modules):
        chain.nodes.append(following)
        chain.relu = True
    return chain


class _Chooser(fx.Interpreter):
    """Runs the network, and at each layer times what oneDNN and eager torch make of its chain."""

    def __init__(self, module: fx.GraphModule, chains: dict[fx.Node, _Chain]) -> None:
        super().__init__(module)
        self.chains = chains
        self.fused: dict[fx.Node, Fused] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As the base class; a layer's chain is fused if that is faster."""
        result = super().run_node(n)
        if n in self.chains:
            (x,), _ = self.fetch_args_kwargs_from_env(n)
            layer = self.fetch_attr(str(n.target))
            packed = on_onednn(layer, x)
            if not isinstance(packed, str):
                self._contest(n, packed, partial(layer, x), x, result)
        return result

    def _contest(
        self,
        node: fx.Node,
        packed: OneDNNLinear | OneDNNConv2d,
        eager: Callable[[], Tensor],
        x: Tensor,
        result: Tensor,
    ) -> None:
        chain = self.chains[node]
        fused = Fused(packed, chain.relu)
        # What will be added is not known yet. Its size is, unless it is broadcast; then the check at the
        # end fails.
        other = (torch.rand_like(result),) if chain.adds else ()

        def apart() -> Tensor:
            y = eager()
            y = y.add_(*other) if other else y
            return y.relu_() if chain.relu else y

        times = interleave({"eager": apart, "fused": partial(fused, x, *other)}, budget_s=0.02)
        if times["fused"].median_us < times["eager"].median_us:
            self.fused[node] = fused


def _put(graph: fx.Graph, chain: _Chain, name: str) -> None:
    """The module `name` in the place of the chain."""
    first, last = chain.nodes[0], chain.nodes[-1]
    given = (first.args[0], *((added(chain.nodes[1], first),) if chain.adds else ()))
    with graph.inserting_before(last):
        new = graph.call_module(name, given)
    last.replace_all_uses_with(new)
    for node in reversed(chain.nodes):
        graph.erase_node(node)
