"""Registered ops: schema, checks, fake, autograd and autocast, one file an op."""

from __future__ import annotations

from sparsekern.ops.conv2d import conv1d_packed, conv2d, conv2d_packed
from sparsekern.ops.linear import linear, linear_packed

__all__ = ["conv1d_packed", "conv2d", "conv2d_packed", "linear", "linear_packed"]
