"""`sparsekern bench ticket`: a ticket of `sparsekern run`, dense in every form against swapped."""

from __future__ import annotations

import argparse
from typing import Any

from sparsekern.cli.arguments import TensorShape
from sparsekern.cli.bench.model import bench_loaded, ticket_network


def bench_ticket(options: argparse.Namespace) -> int:
    """The command: `bench model` on images of the size that the ticket's network takes."""
    model: Any = ticket_network(options.path)
    return bench_loaded(options, options.path.name, model, [TensorShape((1, *model.image))])
