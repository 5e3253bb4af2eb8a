"""Look for a network that swings up a pole whatever its one weight is, and show how the search went.

python examples/swing_up.py --generations 128

Gaier & Ha 2019 (arXiv 1906.04358) search with 128 genomes for 2048 generations; the defaults here are the
small configuration of their code. Generations take longer as networks grow.
"""

from __future__ import annotations

import argparse

import numpy as np

from sparsekern.prune.wann import WEIGHTS, Generation, Settings, SwingUp, evaluate, evolve


def main() -> None:
    """Search, print every sixteenth generation, and try the champion from a hundred new starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--population", type=int, default=64)
    parser.add_argument("--generations", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    settings = Settings(given.population, given.generations, repetitions=3, tournament=4, elite=0.05)
    seen: list[Generation] = []

    def watch(generation: Generation) -> None:
        seen.append(generation)
        if len(seen) % 16 == 0:
            median, best = generation.median, generation.best
            print(f"{len(seen):10}  {median:13.1f}  {best:11.1f}  {generation.connections:11}", flush=True)

    print("generation  median reward  best reward  connections")
    champion = evolve(SwingUp(), settings, given.seed, watch).champion
    rewards = evaluate(SwingUp(), [champion], WEIGHTS, 100, np.random.default_rng(given.seed + 1))[0]
    print(
        f"\nthe champion has {champion.connections} connections; of 1000, from 100 new starts each, it gets"
    )
    print(
        "\n".join(
            f"  {reward:6.1f} with weight {weight}" for weight, reward in zip(WEIGHTS, rewards, strict=True)
        )
    )


if __name__ == "__main__":
    main()
