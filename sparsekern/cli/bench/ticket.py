"""`sparsekern bench ticket`: a ticket of `sparsekern run`, dense in every form against swapped."""

from __future__ import annotations

import argparse

from sparsekern.cli.bench.model import bench_loaded, shape_of, ticket_network


def bench_ticket(options: argparse.Namespace) -> int:
    """The command: `bench model` on what the ticket's network takes."""
    model = ticket_network(options.path)
    return bench_loaded(options, options.path.name, model, [shape_of(model)])
