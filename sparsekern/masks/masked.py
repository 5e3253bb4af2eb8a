"""A mask on a layer: a parametrization, so that every reader of `layer.weight` sees exact zeros.

Optimizers update the hidden original. A dead weight gets no gradient, and whatever momentum or weight decay
does to its original, the layer and everyone who reads it see zero.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Masked(nn.Module):
    """The parametrization `where(mask, weight, 0)`.

    A product with the mask would let NaN and inf of dead weights through.
    `mask` is a bool tensor of the weight's shape, True where the weight is alive; it is copied.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its dead elements at zero."""
        return torch.where(self.mask, weight, 0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What to keep behind the mask when a weight is assigned: all of it."""
        return weight


def _own(module: nn.Module) -> dict[str, Masked]:
    """The masks on the module's own tensors, by tensor name; children are not looked at."""
    if not parametrize.is_parametrized(module):
        return {}
    chains = cast(nn.ModuleDict, module.parametrizations)
    return {
        name: step
        for name, chain in chains.items()
        for step in cast(nn.ModuleList, chain)
        if isinstance(step, Masked)
    }


def _make_class_its_own(module: nn.Module) -> None:
    """Give a parametrized module a class that no copy of it shares.

    torch makes a class for each parametrized module and edits it when parametrizations come and go, but
    deepcopy leaves original and copy with the same class: taking the mask off one would break the other.
    """
    if parametrize.is_parametrized(module):
        shared = type(module)
        module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def require_maskable(module: nn.Module, name: str = "weight") -> None:
    """ValueError if `module.<name>` is no tensor, or one that is computed and so has no place for a mask."""
    kind = type(module).__name__
    if not isinstance(getattr(module, name, None), Tensor):
        raise ValueError(f"{kind} has no tensor {name!r} to mask")
    if name not in module._parameters and not parametrize.is_parametrized(module, name):
        raise ValueError(
            f"{kind}.{name} must be a Parameter, or parametrized, to be masked, and is neither: call "
            "from_torch_prune_ first if torch.nn.utils.prune holds it, restore_ if it was swapped"
        )


def mask_(module: nn.Module, mask: Tensor, name: str = "weight") -> None:
    """Put `mask` (bool, True is alive) on `module.<name>`, in place of a mask already there.

    The values of dead weights stay behind the mask, for `unmask_(module, keep=False)`.
    ValueError if the module has no such tensor or computes it otherwise than by a parametrization (see
    `require_maskable`), or for a mask of another shape or dtype.
    """
    require_maskable(module, name)
    weight = cast(Tensor, getattr(module, name))
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise ValueError(
            f"mask of {type(module).__name__}.{name} must be bool of shape {tuple(weight.shape)}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    present = _own(module).get(name)
    if present is None:
        _make_class_its_own(module)
        parametrize.register_parametrization(module, name, Masked(mask.to(weight.device)))
    else:
        present.mask.copy_(mask)


def _require_no_other_parametrization(model: nn.Module) -> None:
    """ValueError if a tensor with a mask of ours is parametrized by something else too."""
    for child in model.modules():
        for name in _own(child):
            chain = cast(nn.ModuleList, cast(nn.ModuleDict, child.parametrizations)[name])
            if others := [type(step).__name__ for step in chain if not isinstance(step, Masked)]:
                raise ValueError(
                    f"{type(child).__name__}.{name} is also parametrized by {others}: remove these first"
                )


def unmask_(module: nn.Module, keep: bool = True) -> None:
    """Take every mask off `module` and its children; plain parameters remain.

    `keep=True` bakes the zeros into the weights, `keep=False` brings the values behind the mask back.
    ValueError, before anything is changed, if a masked tensor carries other parametrizations too.
    """
    _require_no_other_parametrization(module)
    found = [(child, name) for child in module.modules() for name in _own(child)]
    for child, name in found:
        _make_class_its_own(child)
        parametrize.remove_parametrizations(child, name, leave_parametrized=keep)


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Every mask of the model by parameter name, such as "fc1.weight": the masks themselves, not copies."""
    return {
        _join(prefix, name): step.mask
        for prefix, module in model.named_modules()
        for name, step in _own(module).items()
    }


def maskable(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose weight may be masked, each an nn.Linear, nn.Conv1d or nn.Conv2d, by name in the
    model's order."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def sparsity(model: nn.Module) -> float:
    """The share of zeros in all maskable weights, masked or simply zero; ValueError if there are none."""
    weights = [cast(Tensor, layer.weight) for layer in maskable(model).values()]
    total = sum(weight.numel() for weight in weights)
    if total == 0:
        raise ValueError(f"{type(model).__name__} has no nn.Linear, nn.Conv1d or nn.Conv2d weight")
    return sum(int((weight == 0).sum()) for weight in weights) / total


def dense_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict as the model would have it without our masks: plain names, zeros baked in.

    ValueError if a masked tensor carries other parametrizations too: it has no plain value to give.
    """
    _require_no_other_parametrization(model)
    masks = masks_of(model)
    state = {}
    for key, value in model.state_dict().items():
        head, inside, tail = f".{key}".rpartition(".parametrizations.")
        name = f"{head}.{tail.split('.')[0]}"[1:]
        if not inside or name not in masks:
            state[key] = value.clone()
        elif tail.endswith(".original"):
            state[name] = torch.where(masks[name], value, 0)
    return state
