"""Measuring: timing, verdicts, dense rivals, the machine, records and the report.

Both `swap_` and the benchmarks measure with this package.
"""

from __future__ import annotations

from sparsekern.bench.dense import DENSE, best_dense
from sparsekern.bench.dense_conv import DENSE_CONV2D, InLayout, as_conv2d, fast_rounding
from sparsekern.bench.dense_fused import fold_norms
from sparsekern.bench.dense_layers import OneDNNConv2d, OneDNNLinear
from sparsekern.bench.dense_network import best_dense_model
from sparsekern.bench.timing import Ratio, Timing, hardest, interleave, ratio
from sparsekern.bench.verdict import keep_sparse

__all__ = [
    "DENSE",
    "DENSE_CONV2D",
    "InLayout",
    "OneDNNConv2d",
    "OneDNNLinear",
    "Ratio",
    "Timing",
    "as_conv2d",
    "best_dense",
    "best_dense_model",
    "fast_rounding",
    "fold_norms",
    "hardest",
    "interleave",
    "keep_sparse",
    "ratio",
]
