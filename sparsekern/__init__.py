"""sparsekern: find winning tickets, swap their layers for sparse kernels, prove the speed-up.

import sparsekern as sk

ticket = sk.find_ticket(sk.tickets.task())      # find: iterative magnitude pruning with rewinding
ticket.apply_(model)
report = sk.swap_(model, example_inputs)        # swap: where it is measured to be faster, and only there
print(report)                                   # prove: sk.bench, or `sparsekern run` for the whole path
"""

from __future__ import annotations

from sparsekern import bench, masks, prune, tickets, zoo
from sparsekern._version import __version__
from sparsekern.formats import BlockSparse
from sparsekern.nn import (
    SparseConv2d,
    SparseLinear,
    SwapReport,
    explain,
    fuse_,
    load,
    restore_,
    save,
    swap_,
    time_block,
)
from sparsekern.prune import suggest
from sparsekern.tickets import Ticket, find_ticket

suggest.default_time = time_block  # pruning knows nothing of kernels: here the two meet

__all__ = [
    "BlockSparse",
    "SparseConv2d",
    "SparseLinear",
    "SwapReport",
    "Ticket",
    "__version__",
    "bench",
    "explain",
    "find_ticket",
    "fuse_",
    "load",
    "masks",
    "prune",
    "restore_",
    "save",
    "swap_",
    "tickets",
    "zoo",
]
