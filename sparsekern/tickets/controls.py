"""What is trained beside a ticket, to tell what its success is due to: its mask, its weights, or neither.

A control's name may carry a parameter: "regroup:16x1", "narrow:0.4", "budget:13".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sparsekern.masks import mask_, maskable, masks_of
from sparsekern.prune import Context, next_masks, regroup_
from sparsekern.prune.permute import permuted
from sparsekern.tickets.recipe import Recipe
from sparsekern.tickets.stepper import State, copy_state, stream

# What a stream of random numbers is for; part of its key, so no two uses share one.
INITIAL, ORDER, REINITIAL, RANDOM, SHUFFLED = 0, 1, 2, 3, 4
LONGEST = 2.0  # Liu et al. train at most twice as long


class Setup(NamedTuple):
    """A run to train: from `state` at iteration `start`, in a network of `width` times the task's units, with
    the round's own order of data (0) or another."""

    masks: dict[str, Tensor]
    state: State
    recipe: Recipe
    start: int = 0
    width: float = 1.0
    order: int = 0


@dataclass(frozen=True)
class Round:
    """What a control may look at: the round's number, how its ticket was set up (of the dense network: from
    θ_k), θ_k, the weights `before` that the masks were taken from, a network drawn anew by
    `draw(width, *key)`, and a few inputs."""

    index: int
    ticket: Setup
    rewind: State
    before: State
    draw: Callable[..., nn.Module]
    x: Tensor
    recipe: Recipe
    block: tuple[int, int]
    seed: int

    @property
    def masks(self) -> dict[str, Tensor]:
        """The ticket's."""
        return self.ticket.masks


def reinit(this: Round, _: str) -> Setup:
    """The mask with a new draw of the initialiser (Frankle & Carbin 2019, arXiv 1803.03635, section 2).

    As long as the dense run, so it is also the Scratch-E of Liu et al. 2019 (arXiv 1810.05270).
    """
    return Setup(this.masks, _drawn(this, REINITIAL), this.recipe)


def scratch_b(this: Round, _: str) -> Setup:
    """As reinit, with as many operations as the dense run: longer, at most twice as long (Scratch-B of Liu et
    al. 2019, arXiv 1810.05270)."""
    costs = operations(this.draw(1.0, INITIAL), this.x)
    sparse = sum(cost * float(this.masks[name].double().mean()) for name, cost in costs.items())
    factor = min(sum(costs.values()) / sparse, LONGEST)
    return Setup(this.masks, _drawn(this, REINITIAL), this.recipe.stretched(factor))


def random(this: Round, _: str) -> Setup:
    """As many weights in every layer, at random places, newly drawn (figure 1 of arXiv 1803.03635)."""
    return Setup(_random_masks(this, RANDOM), _drawn(this, REINITIAL), this.recipe)


def shuffle(this: Round, _: str) -> Setup:
    """The ticket's weights with its mask shuffled inside each layer: what of the mask is its densities."""
    return this.ticket._replace(masks=_random_masks(this, SHUFFLED))


def sign(this: Round, _: str) -> Setup:
    """A new draw with the signs of the ticket's own start (Zhou et al. 2019, arXiv 1905.01067)."""
    state = _drawn(this, REINITIAL)
    for name in this.masks:
        state[name] = state[name].abs().copysign(this.rewind[name])
    return Setup(this.masks, state, this.recipe)


def order(this: Round, _: str) -> Setup:
    """The ticket itself with another order of data: what linear mode connectivity compares it with (Frankle
    et al. 2020, arXiv 1912.05671). The dense network has one too, from θ_k."""
    return this.ticket._replace(order=1)


def regroup(this: Round, block: str) -> Setup:
    """The ticket in blocks: units permuted, the best blocks chosen, dead weights in them alive again, the
    weights it starts from permuted along (Chen et al. 2022, arXiv 2202.04736). Layers that are whole, or have
    nothing left, stay as they are."""
    ticket = this.draw(1.0, INITIAL)
    ticket.load_state_dict(this.before)
    for name, mask in this.masks.items():
        mask_(ticket.get_submodule(name.rpartition(".")[0]), mask)
    partly = [name for name, mask in this.masks.items() if mask.any() and not mask.all()]
    order = regroup_(ticket.eval(), dict.fromkeys(partly, _block(block)), this.x).order
    return this.ticket._replace(masks=dict(masks_of(ticket)), state=permuted(this.ticket.state, order))


def narrow(this: Round, width: str) -> Setup:
    """A dense network with `width` times the units in each hidden layer, such as one of the ticket's time."""
    model = this.draw(float(width), REINITIAL)
    return Setup(full_masks(model), copy_state(model), this.recipe, 0, float(width))


def budget(this: Round, times: str) -> Setup:
    """The dense network from the ticket's θ_0, trained as long as so many rounds together."""
    model = this.draw(1.0, INITIAL)
    return Setup(full_masks(model), copy_state(model), this.recipe.stretched(float(times)))


class Control(NamedTuple):
    """How a control is set up, in which rounds, and what its parameter is, if it has one."""

    setup: Callable[[Round, str], Setup]
    rounds: str = "pruned"
    parameter: Callable[[str], object] | None = None


def _block(text: str) -> tuple[int, int]:
    out, into = map(int, text.split("x"))
    if min(out, into) < 1:
        raise ValueError(text)
    return out, into


def _positive(text: str) -> float:
    if not 0 < float(text) < 1e6:
        raise ValueError(text)
    return float(text)


ROUNDS: dict[str, Callable[[int], bool]] = {
    "pruned": lambda index: index > 0,
    "dense": lambda index: index == 0,
    "all": lambda index: True,
}
"""In which rounds a control is trained; the dense network is round 0."""

CONTROLS: dict[str, Control] = {
    "reinit": Control(reinit),
    "random": Control(random),
    "shuffle": Control(shuffle),
    "sign": Control(sign),
    "scratch-b": Control(scratch_b),
    "order": Control(order, "all"),
    "regroup": Control(regroup, parameter=_block),
    "narrow": Control(narrow, "dense", _positive),
    "budget": Control(budget, "dense", _positive),
}


def require_control(text: str) -> Control:
    """The control of a name such as "reinit" or "regroup:16x1"; ValueError for any other."""
    name, colon, parameter = text.partition(":")
    control = CONTROLS.get(name)
    if control is None or bool(colon) != (control.parameter is not None):
        known = [name if one.parameter is None else f"{name}:…" for name, one in CONTROLS.items()]
        raise ValueError(f"unknown control {text!r}: expected some of {known}")
    if control.parameter is not None:
        try:
            control.parameter(parameter)
        except ValueError as error:
            what = "a block such as 16x1" if control.parameter is _block else "a positive number"
            raise ValueError(f"control {text!r}: {what} is expected after the colon") from error
    return control


def full_masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks of the dense network: everything is alive."""
    return {
        f"{name}.weight": torch.ones_like(cast(Tensor, layer.weight), dtype=torch.bool)
        for name, layer in maskable(model).items()
    }


def operations(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Multiplications of each maskable layer for the inputs x, by the name of its weight."""
    counts: dict[str, int] = {}

    def count(name: str, layer: nn.Module, y: Tensor) -> None:
        weight = cast(Tensor, layer.weight)
        uses = y.numel() // weight.shape[0]  # each output unit of each position reads one row of the weight
        counts[name] = counts.get(name, 0) + uses * weight.numel()

    hooks = [
        layer.register_forward_hook(lambda layer, _, y, name=f"{name}.weight": count(name, layer, y))
        for name, layer in maskable(model).items()
    ]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return counts


def _drawn(this: Round, purpose: int) -> State:
    return copy_state(this.draw(1.0, purpose, this.index))


def _random_masks(this: Round, purpose: int) -> dict[str, Tensor]:
    """Masks with as many living blocks in each layer as this round's, drawn at random."""
    alive = {name: mask for name, mask in this.masks.items() if mask.any()}  # a layer may have collapsed
    full = {name: torch.ones_like(mask) for name, mask in alive.items()}
    rates = {name: 1 - int(mask.sum()) / mask.numel() for name, mask in alive.items()}
    chance = Context(generator=stream(this.seed, purpose, this.index))
    values: Mapping[str, Tensor] = {name: mask.float() for name, mask in full.items()}
    return this.masks | next_masks(values, full, rates, this.block, "random", context=chance)
