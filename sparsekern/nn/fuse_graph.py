"""Folding in a network that is a torch.fx graph, where each call of a function or a shared module is seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparsekern.bench.graph import added, is_relu, only_reader
from sparsekern.nn.conv import SparseConv2d
from sparsekern.nn.layer import SparseLayer

Size = tuple[torch.Size, torch.dtype]

_ONLY_READ = (SparseConv2d, nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d, nn.Identity)
"""What a convolution may be computed after instead of before: none of it writes over its input."""


def sizes_of(graph: fx.GraphModule, example_inputs: Any) -> dict[fx.Node, Size]:
    """Shape and dtype of every tensor that comes up when the network runs on ``example_inputs``."""
    found: dict[fx.Node, Size] = {}

    class Sizes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                found[n] = result.shape, result.dtype
            return result

    given = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if isinstance(example_inputs, dict):
        wanted = [node for node in graph.graph.nodes if node.op == "placeholder"]
        given = [example_inputs[n.target] if n.target in example_inputs else n.args[0] for n in wanted]
    Sizes(graph).run(*given)
    return found


def fold_calls_(
    model: fx.GraphModule, layers: dict[str, SparseLayer], sizes: dict[fx.Node, Size]
) -> dict[str, tuple[tuple[str, ...], str]]:
    """Folds, into those of ``layers`` that are called once, the addition and the activation behind that call.
    Returns by layer the names of what was folded, and why no more.

    The layer is then called with what was added as its residual, at the place of the addition; without
    ``sizes`` none is folded. An ``nn.Identity``, ``folded_<call>``, is called where the call stood: a file of
    the network thus fits no network that is folded otherwise.
    """
    folder = _Folder(model, dict(model.named_modules()), sizes)
    calls = Counter(str(node.target) for node in model.graph.nodes if node.op == "call_module")
    found = {}
    for node in list(model.graph.nodes):
        layer = layers.get(str(node.target)) if node.op == "call_module" and calls[node.target] == 1 else None
        if layer is not None and layer.activation is None and len(node.args) == 1 and not node.kwargs:
            found[str(node.target)] = folder.fold_(node, layer)
    model.graph.lint()
    model.recompile()
    return found


@dataclass
class _Folder:
    model: fx.GraphModule
    modules: dict[str, nn.Module]
    sizes: dict[fx.Node, Size]

    def fold_(self, call: fx.Node, layer: SparseLayer) -> tuple[tuple[str, ...], str]:
        """What was folded into the call of a layer, and why no more."""
        folded: list[str] = []
        chain = self._with_identities([call])
        reader = only_reader(chain[-1])
        other = None if reader is None else added(reader, chain[-1])
        if reader is not None and other is not None and isinstance(layer, SparseConv2d):
            if reason := self._why_no_residual(chain, reader, other):
                return (), reason
            for node in chain:
                reader.prepend(node)  # what is added may be computed after the convolution
            call.args = (call.args[0], other)
            identity = self._identity(reader, chain[-1])
            folded.append(str(identity.target))
            chain = self._with_identities([*chain, identity])
            reader = only_reader(chain[-1])
        activation = None if reader is None else self._activation_of(reader)
        if reader is None or activation is None:
            after, reason = only_user(chain[-1])
            return tuple(folded), reason or f"{after} follows, which cannot be folded"
        layer.activation = activation
        folded.append(str(self._identity(reader, chain[-1]).target))
        return tuple(folded), ""

    def _with_identities(self, chain: list[fx.Node]) -> list[fx.Node]:
        """The chain, and every nn.Identity that alone takes what comes before."""
        after = only_reader(chain[-1])
        if after is None or type(self._module(after)) is not nn.Identity or has_hooks(self._module(after)):
            return chain
        return self._with_identities([*chain, after])

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _why_no_residual(self, chain: list[fx.Node], addition: fx.Node, other: fx.Node) -> str:
        if not self.sizes:
            return "an addition follows: whether sizes are equal is seen with example_inputs only"
        if self.sizes.get(other) != self.sizes[chain[0]]:
            return "an addition follows, of another size or dtype"
        between = chain[0].next
        while between is not addition:
            module = self._module(between)
            if between.op == "get_attr" or (isinstance(module, _ONLY_READ) and not has_hooks(module)):
                between = between.next
                continue
            return f"{between.name}, between it and the addition, may write over its input"
        return ""

    def _activation_of(self, node: fx.Node) -> str | None:
        module = self._module(node)
        if module is not None:
            return None if has_hooks(module) else activation_of(module)
        if node.op == "call_function" and node.target is F.gelu:
            exact = node.kwargs.get("approximate", "none") == "none"
            return "gelu" if exact and len(node.args) == 1 else None
        return "relu" if is_relu(node, self.modules) else None

    def _identity(self, node: fx.Node, given: fx.Node) -> fx.Node:
        """An nn.Identity that takes ``given``, in the place of a call."""
        name = f"folded_{node.name}"
        self.modules[name] = identity = nn.Identity().train(self.model.training)
        self.model.add_submodule(name, identity)
        with self.model.graph.inserting_before(node):
            new = self.model.graph.call_module(name, (given,))
        if node in self.sizes:
            self.sizes[new] = self.sizes[node]
        node.replace_all_uses_with(new)
        self.model.graph.erase_node(node)
        return new


def only_user(node: fx.Node) -> tuple[str | None, str]:
    """The module that alone takes what a call of another gives, or why there is none."""
    if len(node.args) != 1 or node.kwargs:
        return None, "it is called with a residual, which a norm would scale"
    users = list(node.users)
    if len(users) != 1:
        return None, f"its output goes to {len(users)} places"
    after = users[0]
    if after.op == "output":
        return None, "it is the model's output"
    if after.op != "call_module" or after.args != (node,) or after.kwargs:
        target = after.target if isinstance(after.target, str) else after.target.__name__
        return None, f"{target} follows"
    return str(after.target), ""


def has_hooks(module: nn.Module | None) -> bool:
    """Whether anybody sees or changes what comes in or out of a module."""
    if module is None:
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return any((*hooks, module._backward_hooks, module._backward_pre_hooks)) or "forward" in vars(module)


def activation_of(module: nn.Module) -> str | None:
    """The activation of a kernel that computes what the module does, if there is one."""
    if type(module) is nn.ReLU:
        return "relu"
    return "gelu" if type(module) is nn.GELU and module.approximate == "none" else None
