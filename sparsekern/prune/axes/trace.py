"""The graph of a network: what it does with which parameter, as functional ATen ops.

`torch.export` runs the forward once on fake tensors. In what it writes down, a Transformer layer and one
written by hand look alike, a mask is one more tensor that is read, and no op changes its inputs.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

_RUN_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    NameError,
)
_MASKED = re.compile(r"(^|.*\.)parametrizations\.(\w+)\.(?:original|\d+\.mask)$")


class Untraceable(ValueError):
    """No graph can be made of a network; the message says why."""


@dataclass(frozen=True)
class Traced:
    """A graph, and the names in the model of the parameters and buffers that its placeholders stand for:
    several where one tensor has several names. Parameters that nothing reads are `unread`."""

    graph: fx.Graph
    leaves: dict[fx.Node, tuple[str, ...]]
    unread: tuple[str, ...]


def trace(model: nn.Module, example_inputs: Any) -> Traced:
    """The graph of the model in eval mode on inputs of these shapes.

    example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments. ValueError if the model
    does not run on them, Untraceable if it runs and no graph can be made, such as for a branch on a value.
    """
    args, kwargs = arguments(example_inputs)
    with quiet(model), _attributes_kept(model), _attention_in_steps():
        run(model, example_inputs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(model, args, kwargs, strict=False).run_decompositions({})
        except _RUN_ERRORS as error:
            words = (str(error).splitlines() or [""])[0]
            raise Untraceable(
                f"{type(model).__name__} cannot be traced: {type(error).__name__}: {words}"
            ) from error
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    names = _all_names(model)
    specs = program.graph_signature.input_specs
    leaves = {nodes[spec.arg.name]: names[spec.target] for spec in specs if spec.target in names}
    read = {node: found for node, found in leaves.items() if node.users}
    known = {name for found in read.values() for name in found}
    unread = tuple(name for name, _ in model.named_parameters() if name not in known)
    return Traced(program.graph, read, unread)


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call."""
    if isinstance(example_inputs, dict):
        return (), example_inputs
    return (
        (tuple(example_inputs), {}) if isinstance(example_inputs, tuple | list) else ((example_inputs,), {})
    )


def run(model: nn.Module, example_inputs: Any) -> Any:
    """What the model gives, without gradients; ValueError if it does not run."""
    args, kwargs = arguments(example_inputs)
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except _RUN_ERRORS as error:
        raise ValueError(
            f"example_inputs do not run: {type(model).__name__} raised {type(error).__name__}: {error}"
        ) from error


def plain(name: str) -> str:
    """A parameter's name as the network has it without our masks: "fc.weight" for what is behind the mask of
    fc.weight and for the mask; other names as they are."""
    found = _MASKED.match(name)
    return f"{found[1]}{found[2]}" if found else name


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Eval mode; every module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """A forward that is traced may hang fake tensors on the modules: what they had comes back."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


@contextmanager
def _attention_in_steps() -> Iterator[None]:
    """torch's Transformer layers without the fused op of eval mode, which hides what they do."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _all_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For every name of a parameter or buffer all names of the same tensor."""
    names: dict[int, list[str]] = {}
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    return {name: tuple(found) for found in names.values() for name in found}
