"""The search: a population of genomes, ranked by several objectives, whose better ones have mutated children.

Gaier & Ha 2019, arXiv 1906.04358; figures not in the paper are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsekern.prune.wann.genome import Floats, Genome, Network, minimal, mutate
from sparsekern.prune.wann.tasks import Task

WEIGHTS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
"""The values of the shared weight that a network must do well with."""


@dataclass(frozen=True)
class Settings:
    """How a search goes.

    population: genomes in a generation; generations: how many are evaluated. repetitions: how often each
    genome tries the task with each of WEIGHTS. tournament: of so many, the best one has the child. elite,
    culled: the share of the best that go on unchanged, and of the worst that have no children. by_size: how
    often small is the second aim, rather than the greatest reward of any weight. ValueError for a
    population or a share that leaves nobody.
    """

    population: int = 128
    generations: int = 2048
    repetitions: int = 4
    tournament: int = 8
    elite: float = 0.2
    culled: float = 0.2
    by_size: float = 0.8

    def __post_init__(self) -> None:
        if min(self.population, self.generations, self.repetitions, self.tournament) < 1:
            raise ValueError(
                f"population, generations, repetitions and tournament of at least 1 expected: {self}"
            )
        if not 0 <= self.elite <= 1 or not 0 <= self.culled < 1 or not 0 <= self.by_size <= 1:
            raise ValueError(f"shares in [0, 1] are expected, and culled below 1: {self}")


@dataclass(frozen=True)
class Generation:
    """Mean rewards over weights and repetitions: the median and the best genome's; and its connections."""

    median: float
    best: float
    connections: int


@dataclass(frozen=True)
class Evolution:
    """What a search found: the genome of best mean reward in the last generation, and how it came there."""

    champion: Genome
    curve: tuple[Generation, ...]


def evolve(
    task: Task, settings: Settings, seed: int, watch: Callable[[Generation], None] | None = None
) -> Evolution:
    """Look for a network that does `task` whatever its weight is; the same seed gives the same search.

    `watch` is called with each generation.
    """
    random = np.random.default_rng(seed)
    population = [
        minimal(task.inputs, task.outputs, task.activation, random) for _ in range(settings.population)
    ]
    curve: list[Generation] = []
    while True:
        rewards = evaluate(task, population, WEIGHTS, settings.repetitions, random)
        means, best = rewards.mean(1), int(rewards.mean(1).argmax())
        curve.append(Generation(float(np.median(means)), float(means[best]), population[best].connections))
        if watch is not None:
            watch(curve[-1])
        if len(curve) == settings.generations:
            return Evolution(population[best], tuple(curve))
        population = _next_generation(population, rewards, settings, random)


def evaluate(
    task: Task,
    genomes: Sequence[Genome],
    weights: Sequence[float],
    repetitions: int,
    random: np.random.Generator,
) -> Floats:
    """Mean rewards (genomes, weights) over repetitions, which are the same draws for all of them."""
    columns = np.repeat(np.array(weights), repetitions)
    rewards = task.rewards(Network(genomes), columns, random)
    means: Floats = rewards.reshape(len(genomes), len(weights), repetitions).mean(2)
    return means


def _next_generation(
    population: Sequence[Genome], rewards: Floats, settings: Settings, random: np.random.Generator
) -> list[Genome]:
    """The best go on; the others are children of winners of tournaments among all but the worst."""
    # A network without connections would be the smallest for ever, so it counts as one of one.
    sizes = np.maximum([genome.connections for genome in population], 1)
    second = -sizes if random.random() < settings.by_size else rewards.max(1)
    order = pareto_order(np.stack([rewards.mean(1), second], axis=1))
    elite = round(settings.elite * len(population))
    parents = max(1, len(population) - round(settings.culled * len(population)))
    winners = random.integers(parents, size=(len(population) - elite, settings.tournament)).min(1)
    children = [mutate(population[order[winner]], random) for winner in winners]
    return [population[index] for index in order[:elite]] + children


def pareto_order(objectives: Floats) -> NDArray[np.int64]:
    """Indices (n,), best first, by objectives (n, k) that are to be high: NSGA-II (Deb et al. 2002).

    First those that nobody surpasses, then those that only these do, and so on; within such a front, those
    first that have the most room around them.
    """
    mine, theirs = objectives[:, None], objectives[None]
    better: NDArray[np.bool_] = np.all(mine >= theirs, axis=2) & np.any(mine > theirs, axis=2)
    left = np.ones(len(objectives), dtype=bool)
    order: list[int] = []
    while left.any():
        front = np.flatnonzero(left & ~better[left].any(0))
        crowding = _crowding(objectives[front])
        order += front[np.argsort(-crowding, kind="stable")].tolist()
        left[front] = False
    return np.array(order)


def _crowding(front: Floats) -> Floats:
    """How far each one's neighbours are apart, in shares of the span, over all objectives; ends: infinite."""
    distance = np.zeros(len(front))
    for values in front.T:
        order = np.argsort(values, kind="stable")
        span = values[order[-1]] - values[order[0]]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
    return distance
