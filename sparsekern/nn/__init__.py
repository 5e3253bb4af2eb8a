"""Layers, and the verbs that put them into networks."""

from __future__ import annotations

from sparsekern.nn.explain import Explanation, explain
from sparsekern.nn.linear import SparseLinear
from sparsekern.nn.quantized import QuantizedSparseLinear
from sparsekern.nn.report import LayerReport, SwapReport
from sparsekern.nn.swap import SWAPS, restore_, swap_

__all__ = [
    "SWAPS",
    "Explanation",
    "LayerReport",
    "QuantizedSparseLinear",
    "SparseLinear",
    "SwapReport",
    "explain",
    "restore_",
    "swap_",
]
