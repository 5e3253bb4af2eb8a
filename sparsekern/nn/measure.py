"""Measuring one layer: candidate blocks against every dense implementation, on the layer's real input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from sparsekern.bench import DENSE, Timing, hardest, interleave, keep_sparse
from sparsekern.masks import fit_block
from sparsekern.nn.linear import (
    SparseLinear,
    effective_weight,
    expected_cost,
    fitting_blocks,
    share_of_zeros,
)
from sparsekern.nn.report import LayerReport

HOPELESS = 2.0  # expected sparse time over best dense time beyond which a candidate is not worth timing
MOST_TIMED = 3


def measure_linear(
    name: str, layer: nn.Linear, x: Tensor, block: tuple[int, int] | None, margin: float
) -> tuple[LayerReport, SparseLinear | None]:
    """Times ``layer`` on ``x`` and decides. Returns the report and, where sparse wins, the layer to put in.

    Candidates are ordered by the expected cost; the best few within ``HOPELESS`` of dense are timed. Their
    outputs are checked first: componentwise within 2 gamma_k Σ|w||x| of the dense one, where
    gamma_k = k u / (1 - k u) and u is the unit roundoff (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., eq. 3.5: two sums in any order differ by no more).
    """
    weight, mask = effective_weight(layer)
    share = share_of_zeros(weight)
    kept = partial(LayerReport, name, "Linear", share, None, None, "kept")
    if weight.numel() == 0 or x.numel() == 0:
        return kept("nothing to compute"), None
    if share == 0:
        return kept("no weight is zero"), None
    if x.dtype != weight.dtype:
        return kept(f"its input is {x.dtype}, its weight {weight.dtype}"), None
    if block is not None and fit_block(block, weight.shape) != block:
        return kept(f"block {block} does not fit in {tuple(weight.shape)}"), None
    rows, blocks = x.numel() // x.shape[-1], [block] if block else fitting_blocks(weight)
    costs = {b: expected_cost(weight, mask, b, rows) for b in blocks}
    timed = [b for b in sorted(costs, key=costs.__getitem__) if costs[b] <= HOPELESS][:MOST_TIMED]
    if not timed:
        least = min(costs.values())
        return kept(f"expected {least:.1f} times the best dense time at this sparsity; not timed"), None
    candidates = {str(b): SparseLinear.from_dense(layer, b, mask).eval() for b in timed}
    if any(sparse.kernel.startswith("reference") for sparse in candidates.values()):
        why = "; ".join(f"{name} {reason}" for name, reason in next(iter(candidates.values())).refusals)
        return kept(f"no kernel takes it: {why}"), None
    with torch.autocast(x.device.type, enabled=False):
        return _contest(kept, candidates, (weight, layer.bias, x), margin)


def _contest(
    kept: Callable[..., LayerReport],
    candidates: dict[str, SparseLinear],
    problem: tuple[Tensor, Tensor | None, Tensor],
    margin: float,
) -> tuple[LayerReport, SparseLinear | None]:
    """Checks the candidates' numbers, then times them against every dense implementation."""
    weight, bias, x = problem
    dense, want = _dense(weight, bias, x)
    wrong = [b for b, sparse in candidates.items() if not agrees(sparse(x), want, x, weight)]
    if wrong:
        return kept(f"the sparse result differs from the dense one in blocks {', '.join(wrong)}"), None
    calls: dict[str, Callable[[], object]] = {n: partial(call, x) for n, call in dense.items()}
    times = interleave(calls | {b: partial(sparse, x) for b, sparse in candidates.items()})
    return _decide(kept, candidates, times, margin)


def _dense(
    weight: Tensor, bias: Tensor | None, x: Tensor
) -> tuple[dict[str, Callable[[Tensor], Tensor]], Tensor]:
    """Every dense implementation that can serve, and the output of eager torch."""
    prepared = {name: prepare(weight, bias, x) for name, prepare in DENSE.items()}
    calls = {name: call for name, call in prepared.items() if not isinstance(call, str)}
    return calls, torch.nn.functional.linear(x, weight, bias)


def _decide(
    kept: Callable[..., LayerReport],
    candidates: dict[str, SparseLinear],
    times: dict[str, Timing],
    margin: float,
) -> tuple[LayerReport, SparseLinear | None]:
    winner = min(candidates, key=lambda b: times[b].median_us)
    best, speedup = hardest(times, [name for name in times if name not in candidates], winner)
    sparse = candidates[winner]
    wins, reason = keep_sparse(speedup, margin)
    report = kept(f"{reason} than {best}" if wins else reason)
    fields = {
        "block": sparse.block,
        "kernel": sparse.kernel,
        "decision": "swapped" if wins else "kept",
        "torch_us": times["torch"].median_us,
        "dense_us": times[best].median_us,
        "best_dense": best,
        "sparse_us": times[winner].median_us,
        "bytes_dense": sparse.out_features * sparse.in_features * sparse.values.element_size(),
        "bytes_sparse": sparse.matrix.nbytes + sparse.index.numel() * sparse.index.element_size(),
    }
    return LayerReport(**{**report.__dict__, **fields}), sparse if wins else None


def agrees(got: Tensor, want: Tensor, x: Tensor, weight: Tensor) -> bool:
    """Whether two products of ``x`` and ``weight`` differ by rounding alone, wherever the dense one is
    finite. Sums of 16-bit products are made in float32, by torch as by us, and rounded once."""
    if got.shape != want.shape:
        return False
    k = weight.shape[1]
    sums = torch.promote_types(weight.dtype, torch.float32)
    unit = torch.finfo(sums).eps / 2
    gamma = (k + 1) * unit / (1 - (k + 1) * unit)
    bound = torch.nn.functional.linear(x.abs().double(), weight.abs().double())
    rounding = torch.finfo(weight.dtype).eps  # half of it for each
    close = (got.double() - want.double()).abs() <= 2 * gamma * bound + rounding * want.double().abs()
    return bool((close | ~want.isfinite()).all())  # a NaN of ours is never close
