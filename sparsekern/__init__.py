"""sparsekern: find winning tickets, swap their layers for sparse kernels, prove the speed-up.

import sparsekern as sk

ticket = sk.find_ticket(sk.tickets.task())      # find: iterative magnitude pruning with rewinding
ticket.apply_(model)
report = sk.swap_(model, example_inputs)        # swap: where it is measured to be faster, and only there
print(report)                                   # prove: sk.bench, or `sparsekern run` for the whole path
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsekern import bench, masks
from sparsekern._version import __version__
from sparsekern.formats import BlockSparse
from sparsekern.masks import timer
from sparsekern.nn import (
    SparseConv1d,
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

if TYPE_CHECKING:
    from sparsekern import prune, tickets, zoo
    from sparsekern.tickets import Ticket, find_ticket

timer.default = time_block  # pruning knows nothing of kernels: here the two meet

# What inference does without is imported when it is asked for: swapping must not wait for it.
_LATER = {"prune": "", "tickets": "", "zoo": "", "Ticket": "tickets", "find_ticket": "tickets"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _LATER[name]
    return getattr(import_module(f"{__name__}.{home}"), name) if home else import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "BlockSparse",
    "SparseConv1d",
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
