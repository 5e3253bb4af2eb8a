"""Registered ops: schema, checks, fake, autograd and autocast, one file an op."""

from __future__ import annotations

from sparsekern.ops.linear import Pattern, linear, linear_of_values

__all__ = ["Pattern", "linear", "linear_of_values"]
