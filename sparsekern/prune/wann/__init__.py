"""Weight-agnostic networks (Gaier & Ha 2019, arXiv 1906.04358): connections are found, no weight is trained.

All connections share one weight, and networks are judged by how they do with several values of it. It is a
small reference: `evolve` looks for such a network for a `Task`, such as `Xor` and `SwingUp`.
"""

from __future__ import annotations

from sparsekern.prune.wann.genome import ACTIVATIONS, Genome, Network, minimal, mutate
from sparsekern.prune.wann.search import (
    WEIGHTS,
    Evolution,
    Generation,
    Settings,
    evaluate,
    evolve,
    pareto_order,
)
from sparsekern.prune.wann.tasks import SwingUp, Task, Xor

__all__ = [
    "ACTIVATIONS",
    "WEIGHTS",
    "Evolution",
    "Generation",
    "Genome",
    "Network",
    "Settings",
    "SwingUp",
    "Task",
    "Xor",
    "evaluate",
    "evolve",
    "minimal",
    "mutate",
    "pareto_order",
]
