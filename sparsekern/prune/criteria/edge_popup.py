"""Edge-popup: training that chooses among frozen random weights (Ramanujan et al. 2020, arXiv 1911.13299)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsekern.masks import Masked
from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.learned import learned_scores
from sparsekern.prune.criteria.network import raw_weight
from sparsekern.prune.layers import pruned_layers
from sparsekern.prune.units import whole


class EdgePopup(nn.Module):
    """The parametrization that lets through the `keep` weights with the highest |scores|.

    On the way back every score gets the gradient as if all were let through, so that dead ones can return.
    """

    def __init__(self, weight: Tensor, keep: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.keep = keep
        self.scores = nn.Parameter(torch.empty_like(weight, requires_grad=False))
        nn.init.kaiming_uniform_(self.scores, a=math.sqrt(5), generator=generator)

    def mask(self) -> Tensor:
        """Which weights are let through: bool of the weight's shape, exactly `keep` of them."""
        best = self.scores.detach().abs().flatten().topk(self.keep, sorted=False).indices
        alive = torch.zeros(self.scores.numel(), dtype=torch.bool, device=self.scores.device)
        return alive.index_fill_(0, best, True).reshape(self.scores.shape)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with those that are not let through at zero."""
        size = self.scores.abs()
        # The difference is exactly zero, and its gradient is that of `size`.
        return weight * (self.mask() + (size - size.detach()))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What to keep when a weight is assigned: all of it."""
        return weight


def _require_share(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}")


@torch.no_grad()
def signed_constant_(
    model: nn.Module, generator: torch.Generator | None = None, sparsity: float = 0.0
) -> None:
    """Set every weight of `pruned_layers` to + or - the root of 2 / (fan in · (1 - sparsity)).

    The signs are random. The paper's best initialisation for edge-popup; with a `sparsity` above zero it is
    scaled for the share of the inputs that is left. ValueError for a sparsity outside [0, 1) or a weight that
    is neither a Parameter nor masked.
    """
    _require_share(sparsity)
    for layer in pruned_layers(model).values():
        weight = raw_weight(layer)
        signs = torch.randint(2, weight.shape, generator=generator).mul_(2).sub_(1)
        weight.copy_(signs * math.sqrt(2 / (weight[0].numel() * (1 - sparsity))))


def edge_popup_(model: nn.Module, sparsity: float = 0.5, generator: torch.Generator | None = None) -> None:
    """Freeze every parameter and put trainable scores on each weight of `pruned_layers`, in place.

    Each layer keeps the share 1 - sparsity of its weights, to the nearest whole number. Any optimizer over
    `model.parameters()` then moves the scores alone; with biases at zero and BatchNorm as it starts the
    network is the paper's, which has neither biases nor a trained BatchNorm. `edge_popup_to_masks_` ends it.
    ValueError, before anything is changed, for a sparsity outside [0, 1), a weight that is not a plain
    Parameter, or a model without such weights.
    """
    _require_share(sparsity)
    layers = pruned_layers(model)
    for name, layer in layers.items():
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(f"{name} must be a plain Parameter, without a mask or another parametrization")
    model.requires_grad_(False)
    for layer in layers.values():
        weight = cast(Tensor, layer.weight)
        popup = EdgePopup(weight, whole((1 - sparsity) * weight.numel()), generator)
        parametrize.register_parametrization(layer, "weight", popup)


def popup_scores(model: nn.Module) -> dict[str, Tensor]:
    """The learned scores by parameter name, for `Context(learned=...)`; the scores themselves, no copies."""
    return {name: popup.scores.detach() for name, _, popup in _popups(model)}


def edge_popup_to_masks_(model: nn.Module) -> dict[str, Tensor]:
    """Turn the scores into masks, in place: a masked network with its frozen weights; returns the masks.

    ValueError if the model has no scores.
    """
    masks = {}
    for name, chain, popup in list(_popups(model)):
        masks[name] = popup.mask()
        chain[0] = Masked(masks[name])
    if not masks:
        raise ValueError(f"{type(model).__name__} has no scores: edge_popup_ is expected to come first")
    return masks


def _popups(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList, EdgePopup]]:
    for name, layer in pruned_layers(model).items():
        if parametrize.is_parametrized(layer, "weight"):
            chain = cast(nn.ModuleList, cast(nn.ModuleDict, layer.parametrizations)["weight"])
            if isinstance(chain[0], EdgePopup):
                yield name, chain, chain[0]


def score(weight: Tensor, context: Context) -> Tensor:
    """|score| as learned; ValueError if `context.learned` has no scores of this name and shape."""
    return learned_scores(
        weight, context, "edge-popup", "popup_scores(model) after training under edge_popup_"
    ).abs()
