"""Genomes: which nodes are connected and what each computes; how they mutate; how many of them run at once.

Gaier & Ha 2019, arXiv 1906.04358, after NEAT (Stanley & Miikkulainen 2002), without crossover.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "linear": lambda x: x,
    "step": lambda x: (x > 0).astype(np.float64),
    "sine": lambda x: np.sin(np.pi * x),
    "gaussian": lambda x: np.exp(-x * x / 2),
    "tanh": np.tanh,
    "sigmoid": lambda x: (np.tanh(x / 2) + 1) / 2,
    "inverse": lambda x: -x,
    "absolute": np.abs,
    "relu": lambda x: np.maximum(x, 0),
    "cosine": lambda x: np.cos(np.pi * x),
}
NAMES = tuple(ACTIVATIONS)


@dataclass(frozen=True, eq=False)
class Genome:
    """A network without weights.

    Nodes stand in the order in which they can be computed: the bias, the inputs, hidden ones, the outputs.
    links: int8 (nodes, nodes), from row to column: 1 is a connection, -1 one that is switched off, 0 is none;
    only above the diagonal. activations: int8 (nodes,), indices into ACTIVATIONS; those of the bias and the
    inputs are not used.
    """

    links: NDArray[np.int8]
    activations: NDArray[np.int8]
    inputs: int
    outputs: int

    @property
    def hidden(self) -> range:
        """The indices of the hidden nodes."""
        return range(1 + self.inputs, len(self.links) - self.outputs)

    @property
    def connections(self) -> int:
        """How many connections are switched on."""
        return int((self.links == 1).sum())


def minimal(inputs: int, outputs: int, activation: str, random: np.random.Generator) -> Genome:
    """No hidden node; each connection of bias or input to an output is on with probability one half.

    activation: that of the outputs, one of ACTIVATIONS; mutations do not change it.
    """
    nodes = 1 + inputs + outputs
    links = np.zeros((nodes, nodes), dtype=np.int8)
    links[: 1 + inputs, -outputs:] = np.where(random.random((1 + inputs, outputs)) < 0.5, 1, -1)
    activations = np.full(nodes, NAMES.index(activation), dtype=np.int8)
    return Genome(links, activations, inputs, outputs)


def add_node(genome: Genome, random: np.random.Generator) -> Genome:
    """A connection is switched off, and a new node of any activation stands between its two ends."""
    if (place := _any_of(genome.links == 1, random)) is None:
        return genome
    source, target = place
    first, last = max(source + 1, 1 + genome.inputs), min(target, len(genome.links) - genome.outputs)
    new = int(random.integers(first, last + 1))
    old = np.delete(np.arange(len(genome.links) + 1), new)
    links = np.zeros((len(old) + 1, len(old) + 1), dtype=np.int8)
    links[np.ix_(old, old)] = genome.links
    links[source, old[target]] = -1
    links[source, new] = links[new, old[target]] = 1
    activations = np.full(len(old) + 1, random.integers(len(NAMES)), dtype=np.int8)
    activations[old] = genome.activations
    return replace(genome, links=links, activations=activations)


def add_connection(genome: Genome, random: np.random.Generator) -> Genome:
    """Two nodes that were not connected are, in the order of the nodes."""
    free = np.triu(genome.links == 0, 1)
    free[:, : 1 + genome.inputs] = False
    free[-genome.outputs :] = False
    return _switch_on(genome, free, random)


def enable(genome: Genome, random: np.random.Generator) -> Genome:
    """A connection that was switched off is switched on."""
    return _switch_on(genome, genome.links == -1, random)


def _switch_on(genome: Genome, candidates: NDArray[np.bool_], random: np.random.Generator) -> Genome:
    if (place := _any_of(candidates, random)) is None:
        return genome
    links = genome.links.copy()
    links[place] = 1
    return replace(genome, links=links)


def _any_of(candidates: NDArray[np.bool_], random: np.random.Generator) -> tuple[int, int] | None:
    """(row, column) of one of the true places, or None if there is none."""
    places = np.flatnonzero(candidates)
    if len(places) == 0:
        return None
    row, column = divmod(int(places[random.integers(len(places))]), candidates.shape[1])
    return row, column


def change_activation(genome: Genome, random: np.random.Generator) -> Genome:
    """A hidden node gets another activation."""
    if not genome.hidden:
        return genome
    activations = genome.activations.copy()
    node = random.integers(genome.hidden.start, genome.hidden.stop)
    activations[node] = (activations[node] + random.integers(1, len(NAMES))) % len(NAMES)
    return replace(genome, activations=activations)


MUTATIONS: tuple[tuple[Callable[[Genome, np.random.Generator], Genome], float], ...] = (
    (add_node, 0.25),
    (add_connection, 0.20),
    (change_activation, 0.50),
    (enable, 0.05),
)
"""What a child may differ in from its parent, with the probability; the figures of the authors' code."""


def mutate(genome: Genome, random: np.random.Generator) -> Genome:
    """A child: the parent with one of MUTATIONS; the parent itself where there is nothing to change so."""
    chosen = random.choice(len(MUTATIONS), p=[probability for _, probability in MUTATIONS])
    return MUTATIONS[chosen][0](genome, random)


class Network:
    """Many genomes of one task, ready to run together: all their nodes make one graph.

    Nodes of all genomes that have the same depth are computed at once. As all connections have the same
    weight, a node is its activation of that weight times the plain sum of what it reads; nodes that no output
    depends on are left out.
    """

    def __init__(self, genomes: Sequence[Genome]) -> None:
        self.inputs, self.outputs = genomes[0].inputs, genomes[0].outputs
        self.genomes = len(genomes)
        nodes: list[tuple[int, int, int, int]] = []  # depth, activation, genome, node
        for index, genome in enumerate(genomes):
            depths = _depths(genome)
            nodes += [
                (int(depth), int(genome.activations[node]), index, node)
                for node, depth in enumerate(depths)
                if depth > 0
            ]
        nodes.sort()
        # Row 0 is always zero: every node reads it, so that none reads nothing.
        row = {
            (i, node): 1 + i * (1 + self.inputs) + node
            for i in range(self.genomes)
            for node in range(1 + self.inputs)
        }
        self.fixed = 1 + len(row)
        row |= {(index, node): self.fixed + at for at, (_, _, index, node) in enumerate(nodes)}
        self.rows = self.fixed + len(nodes)
        self.levels = [
            _Level.of([each for each in nodes if each[0] == depth], genomes, row)
            for depth in range(1, 1 + max(each[0] for each in nodes))
        ]
        self.read = [
            row[index, node]
            for index, genome in enumerate(genomes)
            for node in range(len(genome.links) - self.outputs, len(genome.links))
        ]

    def __call__(self, observations: Floats, weights: Floats) -> Floats:
        """Outputs (genomes, outputs, columns) of observations that broadcast to (genomes, inputs, columns).

        weights: (columns,), the shared weight of each column.
        """
        values = np.zeros((self.rows, len(weights)))
        given = values[1 : self.fixed].reshape(self.genomes, 1 + self.inputs, -1)
        given[:, 0] = 1
        given[:, 1:] = observations
        for level in self.levels:
            sums = np.add.reduceat(values[level.sources], level.starts) * weights
            for activation, first, last in level.groups:
                values[level.row + first : level.row + last] = ACTIVATIONS[activation](sums[first:last])
        return values[self.read].reshape(self.genomes, self.outputs, -1)


@dataclass(frozen=True)
class _Level:
    """Nodes of one depth, sorted by activation, in the rows from `row`.

    Node i reads the rows ``sources[starts[i] : starts[i + 1]]``; groups: (activation, first node, last + 1).
    """

    row: int
    sources: NDArray[np.int64]
    starts: NDArray[np.int64]
    groups: list[tuple[str, int, int]]

    @staticmethod
    def of(
        nodes: Sequence[tuple[int, int, int, int]],
        genomes: Sequence[Genome],
        row: dict[tuple[int, int], int],
    ) -> _Level:
        sources: list[int] = []
        starts: list[int] = []
        for _, _, index, node in nodes:
            starts.append(len(sources))
            sources += [
                0,
                *(row[index, int(each)] for each in np.flatnonzero(genomes[index].links[:, node] == 1)),
            ]
        kinds = [kind for _, kind, _, _ in nodes]
        bounds = [0, *(i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]), len(kinds)]
        groups = [(NAMES[kinds[a]], a, b) for a, b in pairwise(bounds)]
        return _Level(row[nodes[0][2:]], np.array(sources), np.array(starts), groups)


def _depths(genome: Genome) -> NDArray[np.int64]:
    """Of each node 1 + the greatest depth that it reads; 0 for bias, inputs and what no output depends on."""
    on = genome.links == 1
    needed = np.zeros(len(on), dtype=bool)
    needed[-genome.outputs :] = True
    for node in reversed(genome.hidden):
        needed[node] = bool((on[node] & needed).any())
    depths = np.zeros(len(on), dtype=np.int64)
    for node in range(1 + genome.inputs, len(on)):
        if needed[node]:
            depths[node] = 1 + max(depths[on[:, node]], default=0)
    return depths
