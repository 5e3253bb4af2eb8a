"""Tasks: what a weight-agnostic network has to do, for many networks, weights and repetitions at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sparsekern.prune.wann.genome import Floats, Network


class Task(Protocol):
    """What a search needs to know of a task."""

    @property
    def inputs(self) -> int:
        """How many numbers a network is shown."""

    @property
    def outputs(self) -> int:
        """How many it answers with."""

    @property
    def activation(self) -> str:
        """The activation of the outputs."""

    def rewards(self, network: Network, weights: Floats, random: np.random.Generator) -> Floats:
        """Rewards (genomes, columns), high is good, with the shared weight (columns,) of each column."""


@dataclass(frozen=True)
class Xor:
    """The exclusive or of two bits. The sign of the output is the answer; -1 is no, 1 is yes.

    The reward is the mean over the four cases of (1 + answer * truth) / 2: 1 for perfect, one half for none.
    """

    inputs: int = 2
    outputs: int = 1
    activation: str = "tanh"

    def answers(self, network: Network, weights: Floats) -> Floats:
        """The outputs (genomes, columns, 4) for the cases 00, 01, 10 and 11."""
        cases = np.array([[0.0, 0, 1, 1], [0, 1, 0, 1]])
        outputs = network(np.tile(cases, len(weights)), np.repeat(weights, 4))
        return outputs.reshape(len(outputs), len(weights), 4)

    def rewards(self, network: Network, weights: Floats, random: np.random.Generator) -> Floats:
        """See the class; nothing is drawn."""
        rewards: Floats = (1 + self.answers(network, weights) * np.array([-1, 1, 1, -1])).mean(2) / 2
        return rewards


@dataclass(frozen=True)
class SwingUp:
    """A pole hangs from a cart; pushing the cart, swing it up and keep it there, near the middle.

    Shown are position x (m), its speed, the cosine and the sine of the angle, which is 0 when the pole
    stands, and the angle's speed; the answer, in -1 … 1, is the share of the greatest `force` (N) to push
    with. The cart weighs `cart` kg, the pole, a rod of `length` m, `pole` kg; `friction` (N s/m) slows the
    cart. A step is `seconds` long; an episode has `steps`, or ends when the cart is further than `edge` m
    from the middle. The reward of a step is (1 + cos angle) / 2 * cos(pi / 2 * x / edge). The equations are
    those of a rod on a cart; figures and rewards are those of the code of Gaier & Ha 2019.
    """

    steps: int = 1000
    cart: float = 0.5
    pole: float = 0.5
    length: float = 0.6
    friction: float = 0.1
    gravity: float = 9.82
    force: float = 10.0
    seconds: float = 0.01
    edge: float = 2.4
    inputs: int = 5
    outputs: int = 1
    activation: str = "tanh"

    def accelerations(self, state: Floats, force: Floats) -> tuple[Floats, Floats]:
        """Of the cart (m/s²) and of the angle (rad/s²) in state (4, ...): x, its speed, angle, its speed."""
        _, speed, angle, spin = state
        sine, cosine = np.sin(angle), np.cos(angle)
        total, moment = self.cart + self.pole, self.pole * self.length
        push = force - self.friction * speed
        cart = (4 * push + 3 * self.pole * self.gravity * sine * cosine - 2 * moment * spin**2 * sine) / (
            4 * total - 3 * self.pole * cosine**2
        )
        pole = (
            6 * push * cosine + 6 * total * self.gravity * sine - 3 * moment * spin**2 * sine * cosine
        ) / (self.length * (4 * total - 3 * self.pole * cosine**2))
        return cart, pole

    def rewards(self, network: Network, weights: Floats, random: np.random.Generator) -> Floats:
        """The sum over an episode; each column has its own start: hanging, give or take 0.2."""
        start = np.array([0, 0, np.pi, 0])[:, None] + 0.2 * random.standard_normal((4, len(weights)))
        state = np.repeat(start[:, None], network.genomes, axis=1)
        total, alive = np.zeros(state.shape[1:]), np.ones(state.shape[1:], dtype=bool)
        for _ in range(self.steps):
            x, speed, angle, spin = state
            seen = np.stack([x, speed, np.cos(angle), np.sin(angle), spin], axis=1)
            push = self.force * np.clip(network(seen, weights)[:, 0], -1, 1)
            faster, turning = self.accelerations(state, push)
            state = np.where(alive, state + self.seconds * np.stack([speed, faster, spin, turning]), state)
            reward = (1 + np.cos(state[2])) / 2 * np.cos(np.pi / 2 * state[0] / self.edge)
            alive &= np.abs(state[0]) <= self.edge
            total += np.where(alive, reward, 0)
            if not alive.any():
                break
        return total
