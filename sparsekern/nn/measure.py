"""Measuring one layer: candidate blocks against every dense implementation, on the layer's real input."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsekern.bench import DENSE, DENSE_CONV2D, Timing, as_conv2d, hardest, interleave, keep_sparse
from sparsekern.bench.cuda import CudaClock, interleave_cuda
from sparsekern.bench.machine import usable_cpus
from sparsekern.kernels.triton.launch import FEW
from sparsekern.masks import fit_block
from sparsekern.nn.layer import SparseLayer, effective_weight, share_of_zeros
from sparsekern.nn.linear import SparseLinear
from sparsekern.nn.report import LayerReport

# Expected sparse time over best dense time beyond which a candidate is not worth timing; what is expected of
# GPUs is the best that can be hoped for, and a candidate has to be tuned before it is timed.
HOPELESS = {"cpu": 2.0, "cuda": 1.05}
MOST_TIMED = 3
TUNING_S = 3.0  # for each candidate on a GPU whose launch nobody tuned

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
    Algorithms, 2nd ed., eq. 3.5: two sums in any order differ by no more). On a GPU the launch of each is
    then tuned, for ``TUNING_S`` seconds at most, unless one for the same product is kept.
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
    x = batched(layer, x)
    with torch.autocast(x.device.type, enabled=False):
        with _exact_float32():
            want = kind.compute(layer, x, weight, _bias(layer))
            blocks, rows = [block] if block else kind.fitting_blocks(weight), want.numel() // weight.shape[0]
            costs = {b: kind.expected_cost(layer, weight, mask, b, rows) for b in blocks}
            hopeless = HOPELESS.get(x.device.type, HOPELESS["cpu"])
            timed = [b for b in sorted(costs, key=costs.__getitem__) if costs[b] <= hopeless][:MOST_TIMED]
            if not timed:
                least = min(costs.values())
                return kept(
                    f"expected {least:.1f} times the best dense time at this sparsity; not timed"
                ), None
            made = {str(b): kind.from_layer(layer, b, mask).eval() for b in timed}
            candidates = {
                b: sparse for b, sparse in made.items() if not sparse.kernel.startswith("reference")
            }
            if not candidates:
                why = "; ".join(f"{n} {reason}" for n, reason in next(iter(made.values())).refusals)
                return kept(f"no kernel takes it: {why}"), None
            limit = rounding(want, x, weight, lambda x, w: kind.compute(layer, x, w, None))
            wrong = [b for b, sparse in candidates.items() if not agrees(sparse(x), want, limit)]
            if wrong:
                blocks_ = ", ".join(wrong)
                return kept(f"the sparse result differs from the dense one in blocks {blocks_}"), None
        if x.device.type == "cuda":
            _tune(candidates.values(), x)
        return _contest(kept, candidates, (layer, weight, x), margin)


def batched(layer: nn.Module, x: Tensor) -> Tensor:
    """With a batch of one where a convolution is given none: its dense implementations take batches."""
    lone = isinstance(layer, nn.Conv1d | nn.Conv2d) and x.dim() == len(layer.kernel_size) + 1
    return x.unsqueeze(0) if lone else x


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Inside, no product rounds float32 to TF32, so that two ways to make it can be compared."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    rounding = [backend for backend in backends if backend.fp32_precision == "tf32"]
    try:
        for backend in rounding:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend in rounding:
            backend.fp32_precision = "tf32"


def _bias(layer: nn.Module) -> Tensor | None:
    return layer.bias  # type: ignore[return-value]  # it is of SWAPS


def _contest(
    kept: Callable[..., LayerReport],
    candidates: dict[str, SparseLayer],
    problem: tuple[nn.Module, Tensor, Tensor],
    margin: float,
) -> tuple[LayerReport, SparseLayer | None]:
    return _decide(kept, candidates, time_layers(candidates, problem), margin)


def time_layers(
    candidates: Mapping[str, SparseLayer], problem: tuple[nn.Module, Tensor, Tensor]
) -> dict[str, Timing]:
    """The times of sparse layers, and of every dense implementation that can serve in their place; the
    problem is the dense layer, its weight with its zeros, and x."""
    layer, weight, x = problem
    given = x
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        plain = cast("nn.Conv1d | nn.Conv2d", next(iter(candidates.values())).empty_dense())
        plain.weight, plain.bias = nn.Parameter(weight, False), layer.bias
        if isinstance(plain, nn.Conv1d):
            plain, given = as_conv2d(plain), x.unsqueeze(-2)
        prepared = {name: prepare(plain, given) for name, prepare in DENSE_CONV2D.items()}
    else:
        prepared = {name: prepare(weight, _bias(layer), x) for name, prepare in DENSE.items()}
    dense = {name: call for name, call in prepared.items() if not isinstance(call, str)}
    calls: dict[str, Callable[[], object]] = {name: partial(call, given) for name, call in dense.items()}
    time = partial(interleave_on_gpu, x.device) if x.device.type == "cuda" else interleave
    return time(calls | {name: partial(sparse, x) for name, sparse in candidates.items()})


def interleave_on_gpu(
    device: torch.device, calls: Mapping[str, Callable[[], object]], budget_s: float = 1.0
) -> dict[str, Timing]:
    """`interleave` by the GPU's clock. Calls are launched one by one: a swap must not be slower there either,
    and what wins with its launches wins in a CUDA graph, where they cost next to nothing."""
    return interleave_cuda(calls, budget_s=budget_s, eager=calls, clock=CudaClock(device))[0]


def _tune(candidates: Iterable[SparseLayer], x: Tensor) -> None:
    """Keeps the fastest launch of each candidate on inputs like ``x``, where none is kept."""
    from sparsekern.kernels.triton import tune

    rows = x.reshape(-1, x.shape[-1]).contiguous()
    clock = CudaClock(x.device)

    def measure(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        # Launches would hide what a product of few rows takes.
        eager = () if len(rows) <= FEW else calls
        times, _ = interleave_cuda(calls, rounds=10, budget_s=TUNING_S / 10, eager=eager, clock=clock)
        return {name: timing.median_us for name, timing in times.items()}

    for sparse in candidates:
        if not isinstance(sparse, SparseLinear) or sparse.kernel != "triton_linear":
            continue
        for product in tune.linear_products(rows, sparse._packed()):
            if not tune.is_kept(product.task):
                try:
                    tune.tune(product, measure, budget_s=TUNING_S, workers=min(usable_cpus(), 16))
                except OSError as error:
                    warnings.warn(f"tuned launches cannot be kept, and are not used: {error}", stacklevel=2)


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
        "bytes_sparse": sparse.weight_nbytes,
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
