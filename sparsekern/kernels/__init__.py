"""Kernels: the table of all of them, the pure choice among them, and the backends that run them."""

from __future__ import annotations

from sparsekern.kernels.select import Choice, ConvGeometry, Kernel, Plan, Problem, make_plan, select
from sparsekern.kernels.table import KERNELS

__all__ = ["KERNELS", "Choice", "ConvGeometry", "Kernel", "Plan", "Problem", "make_plan", "select"]
