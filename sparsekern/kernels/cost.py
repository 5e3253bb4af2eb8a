"""What a product is expected to cost, before anything is timed: a pure function of the Problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from sparsekern.kernels.select import Problem


@dataclass(frozen=True)
class Cost:
    """Expected time over the best dense time: ``fixed + per_output / (k + FEW) + density * per_element``.

    Attributes:
        fixed: what a call costs whatever is stored: packing, memory traffic of inputs and outputs, the call.
        per_element: by the least height of a block, time of one stored element in units of one dense element.
        per_output: of a convolution, by the least number of its taps: what moving an output costs, in units
            of one product.
    """

    fixed: float
    per_element: dict[int, float]
    per_output: dict[int, float] = field(default_factory=lambda: {1: 0.0})


# kernel -> least rows of x -> Cost. cpu_linear: fitted to 98 cases of `sparsekern bench linear` (768 x 768,
# 80 and 90 %), of which 12 come out more than 15 % off; docs/measured.md, "The cost function".
# tools/check_cost.py compares new records. cpu_conv2d: to `sparsekern bench conv2d --preset goals`.
COST = {
    "cpu_linear_pairs": {1: Cost(0.1, {16: 3.0, 32: 2.0})},
    "cpu_linear": {
        1: Cost(0.13, {1: 1.75, 2: 1.8, 3: 1.15, 4: 1.05, 8: 0.5, 16: 0.3, 32: 0.15}),
        2: Cost(0.13, {1: 2.6, 2: 1.4, 3: 1.25, 4: 1.05, 8: 0.5, 16: 0.3, 32: 0.3}),
        16: Cost(0.08, {1: 1.9, 2: 1.3, 3: 0.95, 4: 0.85, 8: 0.85, 16: 0.75, 32: 0.6}),
        48: Cost(0.08, {1: 1.85, 2: 1.55, 3: 1.35, 4: 1.05, 8: 0.92, 16: 0.9, 32: 0.87}),
    },
    # What H100s were expected to do before one was measured: a share of the dense products by the height.
    "triton_linear": {1: Cost(0.05, {16: 2.5, 32: 1.6, 64: 1.2, 128: 1.05})},
    "reference_linear": {1: Cost(2.0, {1: 0.0})},
    "cpu_conv2d": {1: Cost(0.07, {1: 1.8, 4: 1.6, 8: 1.55, 16: 1.5}, {1: 60, 2: 140})},
    "cpu_conv2d_pairs": {1: Cost(0.03, {16: 2.0, 32: 1.6}, {1: 250, 2: 700})},
    "triton_conv2d": {1: Cost(0.05, {16: 4.0, 32: 2.5, 64: 1.8, 128: 1.5})},
    "reference_conv2d": {1: Cost(2.0, {1: 0.0})},
}


# Products of an output below which dense convolutions lose their speed as well.
FEW = 70

# Dense products of 16-bit floats are so much faster than float32's, on which the costs of these rest; they
# compute in float32 themselves.
DENSE_16_BIT = 3.5
IN_FLOAT32 = ("cpu_linear", "cpu_conv2d")


def relative_cost(kernel: str, problem: Problem) -> float:
    """Expected time over the best dense time: below 1, the kernel is expected to win."""
    cost = _least(COST[kernel], problem.m)
    widened = kernel in IN_FLOAT32 and problem.dtype != "float32"
    expected = cost.fixed + problem.density * _least(cost.per_element, problem.block[0])
    expected += _least(cost.per_output, problem.taps) / (problem.k + FEW)
    return expected * DENSE_16_BIT if widened else expected


_T = TypeVar("_T")


def _least(table: dict[int, _T], size: int) -> _T:
    """The entry of the largest key that ``size`` reaches, else the first."""
    return table[max((key for key in table if key <= size), default=min(table))]
