"""What calls of a torch.fx graph do: who alone reads a result, what is added to it, what is a ReLU."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

ADDITIONS = (operator.add, operator.iadd, torch.add)
RELUS = (torch.relu, torch.relu_, F.relu, F.relu_)


def only_reader(node: fx.Node) -> fx.Node | None:
    """The one call that takes what ``node`` gives; None where there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def added(node: fx.Node, to: fx.Node) -> fx.Node | None:
    """What ``node`` adds to ``to``, if that is what it does and nothing but ``to`` is written over."""
    named = node.op == "call_method" and node.target in ("add", "add_")
    if not (named or (node.op == "call_function" and node.target in ADDITIONS)) or node.kwargs:
        return None
    if node.target in (operator.iadd, "add_") and node.args[0] is not to:
        return None
    others = [given for given in node.args if given is not to]
    return others[0] if len(node.args) == 2 and len(others) == 1 and isinstance(others[0], fx.Node) else None


def is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether ``node`` is a ReLU: a module of ``modules``, a function or a method."""
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    named = node.op == "call_method" and node.target in ("relu", "relu_")
    return named or (node.op == "call_function" and node.target in RELUS)
