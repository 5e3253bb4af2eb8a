"""Axes: which dimensions of a network's tensors belong together.

`trace` writes down what a network computes, `flow_of` finds for every dimension of every tensor the spaces
that it is made of: indices in one space stand or fall, and change places, together.
"""

from __future__ import annotations

from sparsekern.prune.axes.flow import POSITIONS, Axes, Flow, Read
from sparsekern.prune.axes.spaces import Axis, Space, atoms, fix, root, size_of
from sparsekern.prune.axes.table import flow_of, given, is_move, is_pointwise
from sparsekern.prune.axes.trace import Traced, Untraceable, arguments, plain, quiet, run, trace

__all__ = [
    "POSITIONS",
    "Axes",
    "Axis",
    "Flow",
    "Read",
    "Space",
    "Traced",
    "Untraceable",
    "arguments",
    "atoms",
    "fix",
    "flow_of",
    "given",
    "is_move",
    "is_pointwise",
    "plain",
    "quiet",
    "root",
    "run",
    "size_of",
    "trace",
]
