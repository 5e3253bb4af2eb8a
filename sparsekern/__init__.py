"""sparsekern: find winning tickets, swap their layers for sparse kernels, prove the speed-up.

>>> import sparsekern as sk
>>> report = sk.swap_(model, example_inputs)  # doctest: +SKIP
"""

from __future__ import annotations

from sparsekern import prune
from sparsekern._version import __version__
from sparsekern.formats import BlockSparse
from sparsekern.nn import SparseLinear, SwapReport, explain, restore_, swap_

__all__ = [
    "BlockSparse",
    "SparseLinear",
    "SwapReport",
    "__version__",
    "explain",
    "prune",
    "restore_",
    "swap_",
]
