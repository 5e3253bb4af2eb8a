"""Layers, and the verbs that put them into networks."""

from __future__ import annotations

from sparsekern.nn.conv import SparseConv1d, SparseConv2d
from sparsekern.nn.explain import Explanation, explain
from sparsekern.nn.files import load, save
from sparsekern.nn.fuse import FusedLayer, FuseReport, fuse_
from sparsekern.nn.layer import SparseLayer
from sparsekern.nn.linear import SparseLinear
from sparsekern.nn.pretrained import dense_state
from sparsekern.nn.quantized import QuantizedSparseLinear
from sparsekern.nn.report import LayerReport, SwapReport
from sparsekern.nn.restore import restore_
from sparsekern.nn.swap import SWAPS, swap_, time_block

__all__ = [
    "SWAPS",
    "Explanation",
    "FuseReport",
    "FusedLayer",
    "LayerReport",
    "QuantizedSparseLinear",
    "SparseConv1d",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SwapReport",
    "dense_state",
    "explain",
    "fuse_",
    "load",
    "restore_",
    "save",
    "swap_",
    "time_block",
]
