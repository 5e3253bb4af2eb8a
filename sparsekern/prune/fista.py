"""Proximal training: a penalty on weights, or on whole blocks of them, that makes exact zeros meanwhile.

The smooth loss is followed by its gradient, the penalty by soft thresholds, in turns. With momentum that is
FISTA, the fast iterative shrinkage-thresholding algorithm (Beck & Teboulle 2009, doi 10.1137/080716542), and
without it ISTA. The blocks that come out as zeros are those that a mask drops: see `support`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.masks import as_matrix, as_weight, expand, fit_block, maskable, pool


def soft_threshold(weight: Tensor, amount: float, block: Sequence[int] = (1, 1)) -> Tensor:
    """The proximal map of ``amount * penalty``: every block moves towards zero, and the near ones get there.

    A block g of s elements becomes ``max(0, 1 - amount * sqrt(s) / |g|) * g``, |g| its Euclidean norm; for
    single weights that is ``sign(w) * max(0, |w| - amount)``. So the penalty is the sum of ``sqrt(s) * |g|``
    (Yuan & Lin 2006, the group lasso), and one `amount` suits all blocks, ragged ones at the edge too.
    weight: any shape for blocks of one, else two dimensions or more. ValueError for an amount below 0 or a
    bad block.
    """
    if not amount >= 0:
        raise ValueError(f"amount must be at least 0, got {amount!r}")
    if tuple(block) == (1, 1):
        return weight.sign() * (weight.abs() - amount).clamp(min=0)
    norms = pool(weight.square(), block).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    sizes = pool(torch.ones(weight.shape, device=weight.device), block)
    factors = _spread((1 - amount * sizes.sqrt() / norms).clamp(min=0), weight, block)
    # A product would leave negative zeros.
    return torch.where(factors > 0, weight * factors.to(weight.dtype), 0)


def penalty(weight: Tensor, block: Sequence[int] = (1, 1)) -> float:
    """What `soft_threshold` is the proximal map of: over all blocks, sqrt(size) times Euclidean norm."""
    if tuple(block) == (1, 1):
        return float(weight.abs().sum(dtype=torch.float64))
    sizes = pool(torch.ones(weight.shape, device=weight.device), block)
    return float((sizes.sqrt() * pool(weight.square(), block).sqrt()).sum())


def _spread(values: Tensor, weight: Tensor, block: Sequence[int]) -> Tensor:
    """Each element of the weight's shape gets its block's value, as `expand` does it for bools."""
    high, wide = fit_block(block, weight.shape)
    rows, columns = as_matrix(weight, block).shape
    whole = values.repeat_interleave(high, dim=0).repeat_interleave(wide, dim=1)
    return as_weight(whole[:rows, :columns], weight.shape, block)


def fista_iterates(
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    lipschitz: float,
    strength: float,
    block: Sequence[int] = (1, 1),
    momentum: bool = True,
) -> Iterator[Tensor]:
    """The iterates x_1, x_2, … that minimise ``f(x) + strength * penalty(x, block)``; without end.

    gradient: that of the smooth f; lipschitz: a Lipschitz constant L of it; steps are of length 1 / L. For
    convex f, F(x_k) - F* is at most 2 L |start - x*|² / (k + 1)² with momentum (FISTA), and at most
    L |start - x*|² / (2 k) without (ISTA; Beck & Teboulle 2009, doi 10.1137/080716542). ValueError, at the
    first iterate, for an L that is not above 0, a strength below 0 or a bad block.
    """
    if not lipschitz > 0:
        raise ValueError(f"lipschitz must be above 0, got {lipschitz!r}")
    x, y, t = start, start, 1.0
    while True:
        before, x = x, soft_threshold(y - gradient(y) / lipschitz, strength / lipschitz, block)
        yield x
        t, factor = _next_momentum(t) if momentum else (t, 0.0)
        y = x + factor * (x - before)


def _next_momentum(t: float) -> tuple[float, float]:
    """(t_{k+1}, (t_k - 1) / t_{k+1}): the momentum of Beck & Teboulle 2009."""
    following = (1 + (1 + 4 * t * t) ** 0.5) / 2
    return following, (t - 1) / following


class Fista(torch.optim.Optimizer):
    """Proximal gradient steps on the weights of a network, by FISTA or, without momentum, by ISTA.

    Each group of parameters has its own `lr` (the step, 1 / L where L is known), `strength` of the penalty
    and `block`; `penalised` makes the groups. A loss that is not convex, or known by batches only, has no
    guarantee; so momentum starts anew whenever it points uphill (O'Donoghue & Candès 2015, arXiv 1204.3982),
    per parameter.

    Between steps the parameters hold the point y that momentum looks ahead to, where the next gradient is
    due. Call `settle_` before you evaluate, save or read zeros: from then on they hold x. ValueError for an
    lr that is not above 0 or a strength below 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        strength: float = 0.0,
        block: Sequence[int] = (1, 1),
        momentum: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "strength": strength, "block": block, "momentum": momentum})
        for group in self.param_groups:
            if not group["lr"] > 0 or not group["strength"] >= 0:
                raise ValueError(
                    f"lr > 0 and strength >= 0 expected, got {group['lr']!r} and {group['strength']!r}"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient; returns what `closure`, if any, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def _step_one(self, y: Tensor, group: dict[str, Any]) -> None:
        state = self.state[y]
        before = state.get("x", y)
        x = soft_threshold(y - group["lr"] * y.grad, group["lr"] * group["strength"], group["block"])
        uphill = bool(((y - x) * (x - before)).sum() > 0)
        t, factor = 1.0, 0.0
        if group["momentum"] and not uphill:
            t, factor = _next_momentum(state.get("t", 1.0))
        ahead = x + factor * (x - before)
        state["x"], state["t"] = x, t
        y.copy_(ahead)

    @torch.no_grad()
    def settle_(self) -> None:
        """Set the parameters to the last proximal points, zeros in place; momentum starts anew."""
        for parameter, state in self.state.items():
            parameter.copy_(state["x"])
            state["t"] = 1.0


def penalised(model: nn.Module, strength: float, block: Sequence[int] = (1, 1)) -> list[dict[str, Any]]:
    """Parameter groups for `Fista`: weights of maskable layers are penalised, the rest is not.

    ValueError if a weight carries a mask, for then the parameter is not what the layer computes with.
    """
    layers = maskable(model)
    for name, layer in layers.items():
        if "weight" not in layer._parameters:
            raise ValueError(f"layer {name}: weight must be a plain Parameter: call unmask_ first")
    weights = {layer.get_parameter("weight"): None for layer in layers.values()}  # in order, tied ones once
    others = [parameter for parameter in model.parameters() if parameter not in weights]
    return [
        {"params": list(weights), "strength": strength, "block": tuple(block)},
        {"params": others, "strength": 0.0, "block": (1, 1)},
    ]


def support(weight: Tensor, block: Sequence[int] = (1, 1)) -> Tensor:
    """The mask (bool, the weight's shape) of all blocks in which any weight is not zero."""
    return expand(pool(weight != 0, block) > 0, weight.shape, block)
