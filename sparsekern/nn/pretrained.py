"""The state dict of the dense network that a swapped one stands for, and save_pretrained, which writes it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern import masks
from sparsekern.nn.layer import SparseLayer
from sparsekern.nn.loading import prefix_of

_HUGGING_FACE = "transformers.modeling_utils.PreTrainedModel"


def dense_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict as the network would have it without our masks and our layers: plain names,
    dense weights with their zeros. A network of the same class loads it, and ``swap_`` finds the zeros there.

    Raises:
        ValueError: a masked tensor carries other parametrizations too: it has no plain value to give.
    """
    state = masks.dense_state(model)
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, SparseLayer):
            for part in ("values", "crow", "col"):
                del state[f"{prefix_of(name)}{part}"]
            state[f"{prefix_of(name)}weight"] = layer.weight.detach().as_subclass(Tensor)
    return state


def keep_loadable_(model: nn.Module) -> None:
    """From now on ``save_pretrained`` of every Hugging Face model in a swapped network writes dense weights:
    ``from_pretrained`` passes over names that it does not know, and draws what it misses at random."""
    if any(isinstance(module, SparseLayer) for module in model.modules()):
        for module in model.modules():
            if _HUGGING_FACE in (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__):
                vars(module)["save_pretrained"] = partial(_save_pretrained, module)


def forget_(module: nn.Module) -> None:
    """Undoes ``keep_loadable_``, for ``module`` alone."""
    if getattr(vars(module).get("save_pretrained"), "func", None) is _save_pretrained:
        del vars(module)["save_pretrained"]


def _save_pretrained(
    model: Any,
    save_directory: Any,
    is_main_process: bool = True,
    state_dict: dict[str, Tensor] | None = None,
    **kwargs: Any,
) -> None:
    kind, own = type(model), model.state_dict()
    save = partial(kind.save_pretrained, model, save_directory, is_main_process, **kwargs)
    if model._hf_peft_config_loaded:  # adapters are written alone, and loaded upon another folder
        save(state_dict)
        return
    if state_dict is None:
        state_dict = {name: own.get(name, value) for name, value in dense_state(model).items()}  # ties stay
    with torch.device("meta"):
        wanted = {(name, value.shape) for name, value in kind(model.config).state_dict().items()}
    if strange := wanted ^ {(name, value.shape) for name, value in state_dict.items()}:
        first = min(name for name, _ in strange)
        raise ValueError(
            f"{first}: expected the tensors of a {kind.__name__}, as from_pretrained draws at random what it "
            "misses; sparsekern.save writes a network as it is"
        )
    save(state_dict)
