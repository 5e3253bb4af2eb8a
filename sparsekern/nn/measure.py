"""Measuring one layer: candidate blocks against every dense implementation, on the layer's real input."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from sparsekern.bench import DENSE, DENSE_CONV2D, Timing, hardest, interleave, keep_sparse
from sparsekern.masks import fit_block
from sparsekern.nn.layer import SparseLayer, effective_weight, share_of_zeros
from sparsekern.nn.report import LayerReport

HOPELESS = 2.0  # expected sparse time over best dense time beyond which a candidate is not worth timing
MOST_TIMED = 3

Product = Callable[[Tensor, Tensor], Tensor]


def measure_layer(
    site: tuple[str, nn.Module],
    kind: type[SparseLayer],
    x: Tensor,
    block: tuple[int, int] | None,
    margin: float,
) -> tuple[LayerReport, SparseLayer | None]:
    """Times the layer of a ``site`` (name, layer) on ``x`` against layers of a sparse ``kind``, and decides.
    Returns the report and, where sparse wins, the layer to put in.

    Candidates are ordered by the expected cost; the best few within ``HOPELESS`` of dense are timed. Their
    outputs are checked first: componentwise within 2 gamma_k Σ|w||x| of the dense one, where
    gamma_k = k u / (1 - k u) and u is the unit roundoff (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., eq. 3.5: two sums in any order differ by no more).
    """
    name, layer = site
    weight, mask = effective_weight(layer)
    share = share_of_zeros(weight)
    kept = partial(LayerReport, name, kind.dense_name, share, None, None, "kept")
    if weight.numel() == 0 or x.numel() == 0:
        return kept("nothing to compute"), None
    if share == 0:
        return kept("no weight is zero"), None
    if x.dtype != weight.dtype:
        return kept(f"its input is {x.dtype}, its weight {weight.dtype}"), None
    if block is not None and fit_block(block, weight.shape) != block:
        return kept(f"block {block} does not fit in {tuple(weight.shape)}"), None
    if isinstance(layer, nn.Conv2d) and x.dim() == 3:
        x = x.unsqueeze(0)  # the dense implementations take batches
    with torch.autocast(x.device.type, enabled=False):
        want = kind.compute(layer, x, weight, _bias(layer))
        blocks, rows = [block] if block else kind.fitting_blocks(weight), want.numel() // weight.shape[0]
        costs = {b: kind.expected_cost(layer, weight, mask, b, rows) for b in blocks}
        timed = [b for b in sorted(costs, key=costs.__getitem__) if costs[b] <= HOPELESS][:MOST_TIMED]
        if not timed:
            least = min(costs.values())
            return kept(f"expected {least:.1f} times the best dense time at this sparsity; not timed"), None
        candidates = {str(b): kind.from_layer(layer, b, mask).eval() for b in timed}
        if any(sparse.kernel.startswith("reference") for sparse in candidates.values()):
            why = "; ".join(f"{n} {reason}" for n, reason in next(iter(candidates.values())).refusals)
            return kept(f"no kernel takes it: {why}"), None
        limit = rounding(want, x, weight, lambda x, w: kind.compute(layer, x, w, None))
        wrong = [b for b, sparse in candidates.items() if not agrees(sparse(x), want, limit)]
        if wrong:
            blocks_ = ", ".join(wrong)
            return kept(f"the sparse result differs from the dense one in blocks {blocks_}"), None
        return _contest(kept, candidates, (layer, weight, x), margin)


def _bias(layer: nn.Module) -> Tensor | None:
    return layer.bias  # type: ignore[return-value]  # it is an nn.Linear or nn.Conv2d


def _contest(
    kept: Callable[..., LayerReport],
    candidates: dict[str, SparseLayer],
    problem: tuple[nn.Module, Tensor, Tensor],
    margin: float,
) -> tuple[LayerReport, SparseLayer | None]:
    """Times the candidates against every dense implementation that can serve."""
    layer, weight, x = problem
    if isinstance(layer, nn.Conv2d):
        plain = cast(nn.Conv2d, next(iter(candidates.values())).empty_dense())
        plain.weight, plain.bias = nn.Parameter(weight, False), layer.bias
        prepared = {name: prepare(plain, x) for name, prepare in DENSE_CONV2D.items()}
    else:
        prepared = {name: prepare(weight, _bias(layer), x) for name, prepare in DENSE.items()}
    dense = {name: call for name, call in prepared.items() if not isinstance(call, str)}
    calls: dict[str, Callable[[], object]] = {name: partial(call, x) for name, call in dense.items()}
    times = interleave(calls | {b: partial(sparse, x) for b, sparse in candidates.items()})
    return _decide(kept, candidates, times, margin)


def _decide(
    kept: Callable[..., LayerReport],
    candidates: dict[str, SparseLayer],
    times: dict[str, Timing],
    margin: float,
) -> tuple[LayerReport, SparseLayer | None]:
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
        "bytes_dense": math.prod(sparse.matrix.shape) * sparse.values.element_size(),
        "bytes_sparse": sparse.matrix.nbytes + sparse.index.numel() * sparse.index.element_size(),
    }
    return LayerReport(**{**report.__dict__, **fields}), sparse if wins else None


def rounding(want: Tensor, x: Tensor, weight: Tensor, product: Product) -> Tensor:
    """How far another way to make ``want``, a ``product(x, weight)`` and a bias, may be from it by rounding
    alone, componentwise. Sums of 16-bit products are made in float32, by torch as by us, and rounded once."""
    k = weight[0].numel()
    sums = torch.promote_types(weight.dtype, torch.float32)
    unit = torch.finfo(sums).eps / 2
    gamma = (k + 1) * unit / (1 - (k + 1) * unit)
    bound = product(x.abs().double(), weight.abs().double())
    return 2 * gamma * bound + torch.finfo(weight.dtype).eps * want.double().abs()  # half of eps for each


def agrees(got: Tensor, want: Tensor, limit: Tensor) -> bool:
    """Whether two results differ by no more than ``limit`` wherever the dense one is finite."""
    if got.shape != want.shape:
        return False
    close = (got.double() - want.double()).abs() <= limit
    return bool((close | ~want.isfinite()).all())  # a NaN of ours is never close
