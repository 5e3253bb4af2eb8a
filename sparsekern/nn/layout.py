"""Images that lie in another memory format inside a network than at its ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

CHANNELS_FIRST, CHANNELS_LAST = "channels first", "channels last"
FORMATS = {CHANNELS_FIRST: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}
"""How a batch of images (batch, channels, height, width) may lie in memory, by name."""


def format_of(inputs: Any) -> str | None:
    """How the images among a network's inputs lie: a key of ``FORMATS``. None where there are none, or where
    all formats are the same, as of one channel."""
    for x in tree_leaves(inputs):
        if _is_image(x) and x.is_contiguous() != x.is_contiguous(memory_format=torch.channels_last):
            return CHANNELS_FIRST if x.is_contiguous() else CHANNELS_LAST
    return None


def lay_out(values: Any, name: str) -> Any:
    """Tensors, nested in tuples, lists and dicts, with all images among them in the format ``name``."""
    return tree_map(lambda x: x.contiguous(memory_format=FORMATS[name]) if _is_image(x) else x, values)


def keep_(model: nn.Module, inside: str, outside: str) -> None:
    """From now on the network's images lie as ``inside`` says, converted once where they come in, and those
    that it gives as ``outside`` says. Layers keep the format they are given, so that it reaches them all."""
    forget_(model)
    model.register_forward_pre_hook(_Enter(inside), with_kwargs=True)
    model.register_forward_hook(_Leave(outside))


def kept(model: nn.Module) -> tuple[str, str] | None:
    """``(inside, outside)`` of ``keep_``, if it was called."""
    inside = [hook.name for hook in model._forward_pre_hooks.values() if isinstance(hook, _Enter)]
    outside = [hook.name for hook in model._forward_hooks.values() if isinstance(hook, _Leave)]
    return (inside[0], outside[0]) if inside and outside else None


def forget_(model: nn.Module) -> None:
    """Undoes ``keep_``, for ``model`` alone."""
    for hooks, about in (
        (model._forward_pre_hooks, model._forward_pre_hooks_with_kwargs),
        (model._forward_hooks, {}),
    ):
        for key in [key for key, hook in hooks.items() if isinstance(hook, _Enter | _Leave)]:
            del hooks[key]
            about.pop(key, None)


def _is_image(x: object) -> bool:
    return isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point()


@dataclass(frozen=True)
class _Enter:
    name: str

    def __call__(self, _: nn.Module, args: Any, kwargs: Any) -> Any:
        return lay_out((args, kwargs), self.name)


@dataclass(frozen=True)
class _Leave:
    name: str

    def __call__(self, _: nn.Module, args: Any, output: Any) -> Any:
        return lay_out(output, self.name)
