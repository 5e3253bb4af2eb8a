"""What a product is expected to cost, before anything is timed: a pure function of the Problem."""

from __future__ import annotations

from sparsekern.kernels.select import Problem

# Time per stored element and row of x, in units of one element of the best dense product. From the ratios of
# docs/measured.md ("Short vector blocks"): at 90 % and batch 128 an element costs 10 / ratio. Only the order
# of magnitude matters: what looks close is timed.
COST = {
    "cpu_linear_pairs": {16: 3.0, 32: 2.0},
    "cpu_linear": {1: 3.0, 8: 2.6, 16: 1.8, 32: 1.5},
    "reference_linear": {1: 2.0},
}


def relative_cost(kernel: str, problem: Problem) -> float:
    """Expected time over the best dense time: below 1, the kernel is expected to win."""
    table = COST[kernel]
    least = max((height for height in table if height <= problem.block[0]), default=min(table))
    share = problem.density if kernel != "reference_linear" else 1.0
    return share * table[least]
