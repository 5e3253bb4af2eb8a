"""Which layers of a network may be swapped, and for the others, why not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.utils import parametrize

from sparsekern.masks import Masked
from sparsekern.nn.layer import SparseLayer

LEFT_ALONE = {
    "torch.nn.modules.rnn.RNNBase": "torch multiplies by its weights inside one op",
    "torch.nn.modules.activation.MultiheadAttention": "torch multiplies by its weights inside one function",
    "torch.nn.modules.conv.Conv3d": "no sparse kernel convolves in three dimensions",
    "torch.nn.modules.conv._ConvTransposeNd": "no sparse kernel convolves transposed",
    "torch.nn.modules.linear.Bilinear": "no sparse kernel multiplies by two inputs",
    "transformers.pytorch_utils.Conv1D": "its weight lies transposed; an nn.Linear in its place would do",
}
"""Layers with weights that nothing sparse replaces, by class, and why: each gets its line in the report."""


@dataclass(frozen=True)
class Site:
    """A layer in its place: ``parent._modules[child]`` is ``layer``. ``reason`` is why it cannot be swapped,
    or None."""

    name: str
    parent: nn.Module
    child: str
    layer: nn.Module
    reason: str | None

    @property
    def kind(self) -> str:
        """The name of the layer's class, as it was before anything was parametrized."""
        return parametrize.type_before_parametrizations(self.layer).__name__


def sites(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[Site]:
    """Every layer of ``model`` that is of one of ``kinds``, or of LEFT_ALONE, or a subclass, in the model's
    order of parents."""
    uses = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    places = Counter(id(child) for m in model.modules() for child in m._modules.values())
    found = []
    for prefix, parent in model.named_modules():
        for child, layer in parent._modules.items():
            name = f"{prefix}.{child}" if prefix else child
            if isinstance(layer, kinds) and not isinstance(layer, SparseLayer):
                reason = _why_not(parent, layer, kinds, shared=places[id(layer)] > 1)
                if reason is None and any(uses[id(p)] > 1 for p in layer.parameters()):
                    reason = "its weight or bias is tied to another layer's"
                found.append(Site(name, parent, child, layer, reason))
            elif layer is not None and (alone := _left_alone(layer)):
                found.append(Site(name, parent, child, layer, alone))
    return found


def _left_alone(layer: nn.Module) -> str | None:
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(layer).__mro__)
    return next((LEFT_ALONE[name] for name in names if name in LEFT_ALONE), None)


def _why_not(
    parent: nn.Module, layer: nn.Module, kinds: tuple[type[nn.Module], ...], shared: bool
) -> str | None:
    kind = parametrize.type_before_parametrizations(layer)
    if isinstance(parent, nn.MultiheadAttention | nn.TransformerEncoderLayer):
        return f"nn.{type(parent).__name__} reads its weight past its forward"
    if kind not in kinds:
        return f"{kind.__module__}.{kind.__qualname__} is a subclass that may compute something else"
    if shared:
        return "the layer stands in two places of the network"
    if any(p.is_meta for p in layer.parameters()):
        return "it is on the meta device: there are no numbers"
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups != 1:
        return f"it has {layer.groups} groups; kernels for convolutions take one"
    return made_special(layer)


_HOOKS = (
    "_forward_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def made_special(layer: nn.Module) -> str | None:
    """What was hung on this one layer that a swapped layer would lose."""
    parametrized = parametrize.is_parametrized(layer)
    chains = cast(nn.ModuleDict, layer.parametrizations) if parametrized else nn.ModuleDict()
    steps = [step for chain in chains.values() for step in cast(nn.ModuleList, chain)]
    others = sorted({type(step).__name__ for step in steps if not isinstance(step, Masked)})
    if others:
        return f"it is parametrized by {', '.join(others)}"
    if any(name.startswith("bias") for name in (*layer._buffers, *chains)):
        return "its bias is masked"
    if "forward" in vars(layer):
        return "its forward was replaced"
    if set(layer._buffers) - {"weight_mask"} or set(layer._modules) - {"parametrizations"}:
        return "it carries buffers or modules of its own"
    if any((*(vars(layer)[hooks] for hooks in _HOOKS), _foreign_pre_hooks(layer))):
        return "it has hooks, which a swapped layer would lose"
    return None


def _foreign_pre_hooks(layer: nn.Module) -> list[object]:
    """Forward pre-hooks other than those of torch.nn.utils.prune, whose zeros are in the weight already."""
    from torch.nn.utils.prune import BasePruningMethod

    return [hook for hook in layer._forward_pre_hooks.values() if not isinstance(hook, BasePruningMethod)]
