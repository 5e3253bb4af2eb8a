"""Registered ops: schema, checks, fake, autograd and autocast, one file an op."""

from __future__ import annotations

from sparsekern.ops.linear import linear, linear_packed

__all__ = ["linear", "linear_packed"]
