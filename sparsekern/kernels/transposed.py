"""The gradient of the input of a product with single weights: the product with the transposed weight.

That has the same single weights, in the order of its own rows. What says so is made in the first backward
pass and kept for as long as the index of the weight lives; the values are brought into that order in every
call, so no copy of them can be old. kernels/cpu.py makes one op of it, so that compilers see none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

L2_BYTES = 2**21  # of today
FEW_ROWS = 100


class Transposed(NamedTuple):
    """The pattern of a transposed weight (k, n) of single weights; ``order`` says which of the values of the
    weight itself, in BSR order, stands at each place."""

    crow: Tensor
    col: Tensor
    order: Tensor
    own_index: Tensor


Index = Callable[[Tensor, Tensor, int, int, int], Tensor]
"""From crow, col, the rows and the columns of a weight and the height of its blocks to its index."""

_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # by the index of the weight


def pays(rows: int, values: Tensor) -> bool:
    """Whether the product with the transposed weight is expected to be the faster way for so many rows.
    Values that no cache near holds are brought into another order at some 5 ns each, others at 0.7."""
    return rows >= FEW_ROWS or values.nbytes <= L2_BYTES


def transposed(crow: Tensor, col: Tensor, index: Tensor, n: int, k: int, make_index: Index) -> Transposed:
    """That of the weight (n, k) with this pattern; made once for each ``index``."""
    known: Transposed | None = _known.get(index)  # type: ignore[no-untyped-call]
    if known is None:
        rows = torch.repeat_interleave(torch.arange(n, dtype=torch.int32), crow.diff())
        order = torch.argsort(col, stable=True)
        crow_of = torch.zeros(k + 1, dtype=torch.int32)
        crow_of[1:] = torch.bincount(col, minlength=k).cumsum(0)
        col_of = rows[order]
        known = Transposed(crow_of, col_of, order.int(), make_index(crow_of, col_of, k, n, 1))
        _known[index] = known
    return known
