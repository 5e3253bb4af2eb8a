"""The rival of every ticket: a dense network so narrow that it takes the ticket's time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from sparsekern.bench import best_dense_model, hardest, interleave
from sparsekern.nn import swap_

STEPS = 32
"""Widths are looked for in steps of this part of the full one."""
BUDGET_S = 0.3


def width_of_equal_time(ticket: nn.Module, draw: Callable[[float], nn.Module], x: Tensor) -> float:
    """The largest width whose dense network, in its best form, is no slower on `x` than the swapped ticket.

    ticket: the trained network with its zeros, which is swapped in place. draw: makes a dense network of a
    width. Found by halving, each width timed against the ticket in one interleaved run; the narrowest there
    is, if even that is slower, and never more than 1.
    """
    swap_(ticket.eval(), x)
    low, high = 1, STEPS
    with torch.inference_mode():
        while low < high:
            middle = (low + high + 1) // 2
            if _as_fast(draw(middle / STEPS).eval(), ticket, x):
                low = middle
            else:
                high = middle - 1
    return low / STEPS


def _as_fast(dense: nn.Module, ticket: nn.Module, x: Tensor) -> bool:
    forms = {name: form for name, form in best_dense_model(dense, x).items() if isinstance(form, nn.Module)}
    calls = {name: partial(form, x) for name, form in {**forms, "sparse": ticket}.items()}
    times = interleave(calls, budget_s=BUDGET_S)
    return hardest(times, forms, "sparse")[1].value <= 1
