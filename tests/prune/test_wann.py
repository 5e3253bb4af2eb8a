"""Weight-agnostic networks: mutations, running many at once, ranking, physics; and the search finds some."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsekern.prune.wann import (
    ACTIVATIONS,
    WEIGHTS,
    Genome,
    Network,
    Settings,
    SwingUp,
    Xor,
    evaluate,
    evolve,
    minimal,
    mutate,
    pareto_order,
)
from sparsekern.prune.wann.genome import add_connection, add_node, change_activation, enable

NAMES = list(ACTIVATIONS)
BY_HAND = {
    "linear": lambda x: x,
    "step": lambda x: 1.0 if x > 0 else 0.0,
    "sine": lambda x: math.sin(math.pi * x),
    "gaussian": lambda x: math.exp(-(x**2) / 2),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "inverse": lambda x: -x,
    "absolute": abs,
    "relu": lambda x: max(x, 0.0),
    "cosine": lambda x: math.cos(math.pi * x),
}


def grown(seed: int, mutations: int) -> Genome:
    random = np.random.default_rng(seed)
    genome = minimal(3, 2, "tanh", random)
    for _ in range(mutations):
        genome = mutate(genome, random)
    return genome


def node_by_node(genome: Genome, inputs: list[float], weight: float) -> list[float]:
    """The outputs for one sample, by the definition."""
    values = [1.0, *inputs]
    for node in range(len(values), len(genome.links)):
        total = sum(values[source] for source in range(node) if genome.links[source, node] == 1)
        values.append(BY_HAND[NAMES[genome.activations[node]]](weight * total))
    return values[-genome.outputs :]


def test_a_population_computes_what_each_genome_does_node_by_node() -> None:
    genomes = [grown(seed, mutations) for seed, mutations in enumerate((0, 1, 5, 20, 60, 120))]
    assert {NAMES[kind] for genome in genomes for kind in genome.activations} == set(NAMES)
    random = np.random.default_rng(0)
    weights = np.array([-2.0, -0.5, 0.5, 1.5])
    observations = random.standard_normal((len(genomes), 3, len(weights)))
    found = Network(genomes)(observations, weights)
    expected = [
        [node_by_node(genome, list(shown[:, column]), weight) for column, weight in enumerate(weights)]
        for genome, shown in zip(genomes, observations, strict=True)
    ]
    assert found.shape == (6, 2, 4)
    assert np.allclose(found, np.array(expected).transpose(0, 2, 1), rtol=1e-9, atol=1e-9)


def test_genomes_stay_in_order_and_outputs_keep_their_activation() -> None:
    for seed in range(10):
        genome = grown(seed, 80)
        assert not np.tril(genome.links).any() and len(genome.hidden) > 5
        assert not genome.links[:, :4].any() and not genome.links[-2:].any()
        assert [NAMES[kind] for kind in genome.activations[-2:]] == ["tanh", "tanh"]


def test_a_new_node_splits_a_connection() -> None:
    random = np.random.default_rng(0)
    genome = grown(1, 30)
    for _ in range(20):
        child = add_node(genome, random)
        places = [
            place
            for place in child.hidden
            if np.array_equal(np.delete(child.activations, place), genome.activations)
            and (np.delete(np.delete(child.links, place, 0), place, 1) != genome.links).sum() == 1
        ]
        assert len(child.links) == len(genome.links) + 1 and child.connections == genome.connections + 1
        new = next(
            place
            for place in places
            if (child.links[place] != 0).sum() == (child.links[:, place] != 0).sum() == 1
        )
        source, target = np.flatnonzero(child.links[:, new])[0], np.flatnonzero(child.links[new])[0]
        assert child.links[source, new] == child.links[new, target] == 1
        assert child.links[source, target] == -1
        genome = child


def test_the_other_mutations_change_one_thing() -> None:
    random = np.random.default_rng(0)
    genome = grown(2, 40)
    for _ in range(10):
        for mutation, before in ((add_connection, 0), (enable, -1)):
            child = mutation(genome, random)
            changed = np.argwhere(child.links != genome.links)
            assert len(changed) == 1
            assert genome.links[tuple(changed[0])] == before and child.links[tuple(changed[0])] == 1
        child = change_activation(genome, random)
        changed = np.flatnonzero(child.activations != genome.activations)
        assert len(changed) == 1 and changed[0] in genome.hidden


def test_where_nothing_can_change_the_child_is_its_parent() -> None:
    random = np.random.default_rng(0)
    links = np.zeros((4, 4), dtype=np.int8)
    empty = Genome(links, np.zeros(4, dtype=np.int8), 2, 1)
    assert add_node(empty, random) is enable(empty, random) is change_activation(empty, random) is empty
    assert Network([empty])(np.ones((1, 2, 3)), np.ones(3)).tolist() == [[[0, 0, 0]]]
    full = add_connection(add_connection(add_connection(empty, random), random), random)
    assert full.connections == 3 and add_connection(full, random) is full


def test_mutations_come_with_their_probabilities() -> None:
    random = np.random.default_rng(0)
    genome = grown(3, 40)
    counts = dict.fromkeys(("node", "connection", "activation", "enabled"), 0)
    for _ in range(2000):
        child = mutate(genome, random)
        if len(child.links) > len(genome.links):
            counts["node"] += 1
        elif not np.array_equal(child.activations, genome.activations):
            counts["activation"] += 1
        else:
            place = np.argwhere(child.links != genome.links)[0]
            counts["connection" if genome.links[tuple(place)] == 0 else "enabled"] += 1
    shares = {kind: count / 2000 for kind, count in counts.items()}
    expected = {"node": 0.25, "connection": 0.20, "activation": 0.50, "enabled": 0.05}
    assert shares == pytest.approx(expected, abs=0.03)


def test_the_order_is_by_fronts() -> None:
    random = np.random.default_rng(0)
    points = random.integers(0, 8, (40, 2)).astype(float)
    order = pareto_order(points)
    assert sorted(order.tolist()) == list(range(40))

    def surpassed(index: int, by: list[int]) -> bool:
        return any((points[i] >= points[index]).all() and (points[i] > points[index]).any() for i in by)

    left, fronts = list(range(40)), []
    while left:
        fronts.append([index for index in left if not surpassed(index, left)])
        left = [index for index in left if index not in fronts[-1]]
    at = 0
    for front in fronts:
        assert set(order[at : at + len(front)].tolist()) == set(front)
        at += len(front)
    assert len(fronts) > 3


def test_within_a_front_who_has_room_comes_first() -> None:
    points = np.array([[0.0, 10], [1, 9], [2, 8], [6, 4], [10, 0]])
    # The ends, then 6 4 (8 of 10 in both), then 2 8 (5), then 1 9 (2).
    assert pareto_order(points).tolist() == [0, 4, 3, 2, 1]


def test_the_physics_is_that_of_a_rod_on_a_cart() -> None:
    """Two laws that fix both accelerations: power in is the change of energy, and the rod turns about its
    pivot by the moments of gravity and of the cart's acceleration."""
    task = SwingUp(cart=0.7, pole=0.3, length=0.9, friction=0.2)
    random = np.random.default_rng(0)
    state, force = random.standard_normal((4, 50)) * 3, random.standard_normal(50) * 5
    cart, pole = task.accelerations(state, force)
    rates = np.stack([state[1], cart, state[3], pole])

    def energy(state: np.ndarray) -> np.ndarray:
        _, speed, angle, spin = state
        half = task.length / 2
        middle = (speed - half * np.cos(angle) * spin, -half * np.sin(angle) * spin)
        moving = task.cart * speed**2 / 2 + task.pole * (middle[0] ** 2 + middle[1] ** 2) / 2
        turning = task.pole * task.length**2 / 12 * spin**2 / 2
        return moving + turning + task.pole * task.gravity * half * np.cos(angle)

    change = (energy(state + 1e-6 * rates) - energy(state - 1e-6 * rates)) / 2e-6
    assert np.allclose(change, force * state[1] - task.friction * state[1] ** 2, rtol=1e-5, atol=1e-5)
    angle = state[2]
    assert np.allclose(2 / 3 * task.length * pole, task.gravity * np.sin(angle) + cart * np.cos(angle))


def test_rewards_are_those_of_an_episode_step_by_step() -> None:
    task = SwingUp(steps=120)
    random = np.random.default_rng(3)
    genomes = [minimal(5, 1, "tanh", random) for _ in range(4)]
    weights = np.array([-2.0, 0.5, 2.0])
    found = task.rewards(Network(genomes), weights, np.random.default_rng(7))
    starts = np.array([0, 0, np.pi, 0])[:, None] + 0.2 * np.random.default_rng(7).standard_normal((4, 3))
    lengths = []
    for index, genome in enumerate(genomes):
        for column, weight in enumerate(weights):
            x, speed, angle, spin = starts[:, column]
            total = 0.0
            done = 0
            while done < task.steps and abs(x) <= 2.4:
                done += 1
                seen = [x, speed, math.cos(angle), math.sin(angle), spin]
                push = 10 * node_by_node(genome, seen, weight)[0]
                faster, turning = task.accelerations(np.array([x, speed, angle, spin]), np.array(push))
                x, angle = x + 0.01 * speed, angle + 0.01 * spin
                speed, spin = speed + 0.01 * float(faster), spin + 0.01 * float(turning)
                if abs(x) <= 2.4:
                    total += (1 + math.cos(angle)) / 2 * math.cos(math.pi / 2 * x / 2.4)
            lengths.append(done)
            assert found[index, column] == pytest.approx(total, rel=1e-6, abs=1e-9)
    assert min(lengths) < 100 and max(lengths) == 120  # Some left the track.


@pytest.mark.slow
def test_xor_is_solved_with_every_weight() -> None:
    """Each of the six weights gives the right sign in all four cases; one of five searches finds that."""
    settings = Settings(population=200, generations=50, repetitions=1, tournament=16, elite=0.1)
    weights = np.array(WEIGHTS)
    for seed in range(5):
        found = evolve(Xor(), settings, seed)
        answers = Xor().answers(Network([found.champion]), weights)[0]
        if (np.sign(answers) == [-1, 1, 1, -1]).all():
            break
    else:
        pytest.fail("none of five searches solved it")
    assert len(found.curve) == 50 and found.curve[-1].connections == found.champion.connections
    assert found.curve[-1].best == pytest.approx(
        float(evaluate(Xor(), [found.champion], WEIGHTS, 1, np.random.default_rng(0)).mean())
    )
    assert found.curve[0].best < 0.65 < 0.75 < found.curve[-1].best


@pytest.mark.slow
def test_swing_up_gets_better_over_generations() -> None:
    task, settings = SwingUp(steps=600), Settings(population=48, generations=10, repetitions=2, tournament=4)
    seen: list[float] = []
    found = evolve(task, settings, 0, lambda generation: seen.append(generation.median))
    medians = [generation.median for generation in found.curve]
    assert seen == medians and len(medians) == 10
    assert np.mean(medians[-5:]) > 1.5 * medians[0]


def test_the_same_seed_gives_the_same_search() -> None:
    settings = Settings(population=20, generations=5, repetitions=2)
    curves = [evolve(SwingUp(steps=50), settings, seed).curve for seed in (1, 1, 2)]
    assert curves[0] == curves[1] != curves[2]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="population, generations, repetitions and tournament of at least 1"):
        Settings(population=0)
    with pytest.raises(ValueError, match=r"shares in \[0, 1\] are expected, and culled below 1"):
        Settings(culled=1.0)
