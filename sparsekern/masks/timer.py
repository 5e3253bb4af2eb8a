"""Who times a layer under a mask: pruning asks, kernels answer, and neither knows the other."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Time = Callable[[nn.Module, Tensor, tuple[int, int], Tensor], tuple[float, float] | str]
"""`time(layer, mask, block, x)` -> (dense_us, sparse_us), or why the layer cannot run sparse.

The times, in microseconds, of the layer on its input x with the best dense implementation, and with a sparse
kernel for `block` when only `mask` is alive.
"""

default: Time | None = None
"""Set where the package is put together, to the timer that comes with the kernels."""
