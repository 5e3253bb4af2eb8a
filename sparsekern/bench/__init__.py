"""Measuring: timing, verdicts, dense rivals, the machine, records and the report.

Both `swap_` and the benchmarks measure with this package.
"""

from __future__ import annotations

from sparsekern.bench.dense import DENSE, OneDNNLinear, best_dense, best_dense_model
from sparsekern.bench.timing import Ratio, Timing, hardest, interleave, ratio
from sparsekern.bench.verdict import keep_sparse

__all__ = [
    "DENSE",
    "OneDNNLinear",
    "Ratio",
    "Timing",
    "best_dense",
    "best_dense_model",
    "hardest",
    "interleave",
    "keep_sparse",
    "ratio",
]
