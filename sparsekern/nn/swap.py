"""swap_: masked layers become sparse ones where that is measured to be faster, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsekern.formats.block_sparse import INT32_MAX
from sparsekern.masks import fit_block
from sparsekern.nn import layout
from sparsekern.nn.conv import SparseConv1d, SparseConv2d
from sparsekern.nn.eligible import Site, sites
from sparsekern.nn.layer import SparseLayer, effective_weight, share_of_zeros
from sparsekern.nn.linear import SparseLinear
from sparsekern.nn.measure import batched, measure_layer, time_layers
from sparsekern.nn.pretrained import keep_loadable_
from sparsekern.nn.prove import Choice, call, prove_, put
from sparsekern.nn.report import LayerReport, SwapReport

SWAPS: dict[type[nn.Module], type[SparseLayer]] = {
    nn.Linear: SparseLinear,
    nn.Conv1d: SparseConv1d,
    nn.Conv2d: SparseConv2d,
}
"""What replaces what. A new layer kind is one file and one line here."""

_RUN_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError)


def swap_(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    threshold: float | Literal["auto"] = "auto",
    block: tuple[int, int] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    margin: float = 0.05,
) -> SwapReport:
    """Replaces layers of ``model`` by sparse ones, in place.

    The zeros are read from the layers' masks and weights, whoever pruned them. With ``threshold="auto"`` each
    layer's real input is captured from ``example_inputs``; candidate blocks and the dense implementations
    (eager torch, oneDNN prepacked, of convolutions also the other memory format) are timed interleaved on it,
    on as many threads as torch is set to; a layer is swapped only if its numbers agree and it beats the best
    dense one by ``margin`` with the whole 95 % interval above 1. In the end the whole network is timed before
    against after, and everything is put back if it became slower. Nothing is ever swapped in silence: see the
    report.

    Where convolutions were timed, all of that is done with the images in the other memory format too, if the
    network computes the same on them. If it is faster so, two hooks on ``model`` convert the images that it
    is called with, and those that it returns: what is seen from outside stays as it was.

    On a GPU it is the GPU's clock that counts, launches included. Candidates that nobody tuned for such an
    input are tuned before they are timed, which takes some seconds a layer, and what was found is kept on
    disk for the next time (``SPARSEKERN_CACHE``). Nothing is tuned in a forward call.

    ``save_pretrained`` of a Hugging Face model goes on writing what ``from_pretrained`` reads: dense weights
    with their zeros, in which ``swap_`` finds them again. :func:`save` writes the sparse layers.

    The model runs in eval mode meanwhile, without gradients; its modes are restored. Whatever goes wrong, the
    model is left as it came. An optimizer must be made after the swap: it would go on holding the old layers'
    weights.

    Args:
        model: any module; layers nested in it are replaced, not the module itself.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a dict of keyword
            arguments. Its number of rows, and the size and memory format of its images, matter: a block is
            chosen for them. May be None with a numeric ``threshold``.
        threshold: ``"auto"`` measures; a number in [0, 1] swaps every layer at least that sparse, untimed.
        block: the one block to use, for layers in which it fits; by default the best of several.
        filter_fn: ``filter_fn(layer, name) -> bool``; layers for which it is false are left alone.
        margin: by how much sparse must win, 0.05 is 5 %.

    Raises:
        ValueError: ``example_inputs`` are missing or do not run, ``threshold`` is neither "auto" nor in
            [0, 1].
    """
    _check(model, example_inputs, threshold)
    if block is not None:
        block = fit_block(block, (INT32_MAX, INT32_MAX))  # ValueError unless it is two positive ints
    found = [_filtered(site, filter_fn) for site in sites(model, tuple(SWAPS))]
    if threshold == "auto":
        report = _swap_by_measurement(model, found, example_inputs, (block, margin))
    else:
        report = _swap_by_threshold(found, threshold, block)
    keep_loadable_(model)
    return report


def time_block(
    layer: nn.Module, mask: Tensor, block: tuple[int, int], x: Tensor
) -> tuple[float, float] | str:
    """``(dense_us, sparse_us)`` of a layer on ``x``: the best dense implementation against its sparse kernel
    in ``block`` with only ``mask`` alive; or why it has no such kernel. What ``prune.suggest_block`` times
    with."""
    if not isinstance(layer, tuple(SWAPS)):
        return f"no sparse layer replaces {type(layer).__name__}"
    x = batched(layer, x)
    weight, _ = effective_weight(layer)
    weight = torch.where(mask, weight, 0)
    sparse = _kind_of(layer).from_layer(layer, fit_block(block, weight.shape), mask).eval()
    if sparse.kernel.startswith("reference"):
        return "; ".join(f"{name} {reason}" for name, reason in sparse.refusals)
    with torch.no_grad():
        times = time_layers({"sparse": sparse}, (layer, weight, x))
    ours = times.pop("sparse").median_us
    return min(timing.median_us for timing in times.values()), ours


def _kind_of(layer: nn.Module) -> type[SparseLayer]:
    return next(sparse for dense, sparse in SWAPS.items() if isinstance(layer, dense))


def _check(model: nn.Module, example_inputs: Any, threshold: float | str) -> None:
    if threshold == "auto":
        if example_inputs is None:
            raise ValueError('threshold="auto" measures and needs example_inputs; got None')
    elif not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError(f'threshold: expected "auto" or a sparsity in [0, 1], got {threshold!r}')
    if isinstance(model, tuple(SWAPS)):
        raise ValueError(
            f"swap_ replaces layers inside a module; got a bare {type(model).__name__}: "
            f"use {_kind_of(model).__name__}.from_dense"
        )


def _filtered(site: Site, filter_fn: Callable[[nn.Module, str], bool] | None) -> Site:
    if site.reason is not None or filter_fn is None or filter_fn(site.layer, site.name):
        return site
    return replace(site, reason="left out by filter_fn")


def _swap_by_threshold(found: list[Site], threshold: float, block: tuple[int, int] | None) -> SwapReport:
    outcome = [_by_threshold(site, threshold, block) for site in found]
    for site, (_, sparse) in zip(found, outcome, strict=True):
        if sparse is not None:
            put(site, sparse)
    return SwapReport(tuple(report for report, _ in outcome))


def _by_threshold(
    site: Site, threshold: float, block: tuple[int, int] | None
) -> tuple[LayerReport, SparseLayer | None]:
    if site.reason is not None:
        return LayerReport(site.name, site.kind, None, None, None, "kept", site.reason), None
    kind = _kind_of(site.layer)
    weight, _ = effective_weight(site.layer)
    share = share_of_zeros(weight)
    if share < threshold:
        reason = f"sparsity {share:.1%} is below the threshold {threshold:.1%}"
    elif block is not None and fit_block(block, weight.shape) != block:
        reason = f"block {block} does not fit in {tuple(weight.shape)}"
    else:
        sparse = kind.from_layer(site.layer, block)
        reason = f"sparsity {share:.1%} reaches the threshold {threshold:.1%}; not timed"
        swapped = (share, sparse.block, sparse.kernel, "swapped", reason)
        return LayerReport(site.name, kind.dense_name, *swapped), sparse
    return LayerReport(site.name, kind.dense_name, share, None, None, "kept", reason), None


_Outcome = dict[str, tuple[LayerReport, SparseLayer | None]]
"""By the name of its site, what was measured of a layer, and what goes in its place."""


def _swap_by_measurement(
    model: nn.Module, found: list[Site], example_inputs: Any, rule: tuple[tuple[int, int] | None, float]
) -> SwapReport:
    modes = {site.name: site.layer.training for site in found}
    with evaluating(model):
        outcomes: dict[str | None, _Outcome] = {None: _measure(model, found, example_inputs, rule)}
        if other := _other_format(model, outcomes[None], example_inputs):
            images = [site for site in found if site.kind == "Conv2d"]
            given = layout.lay_out(example_inputs, other)
            outcomes[other] = outcomes[None] | _measure(model, images, given, rule)
        choices = [_choice(found, outcome, inside) for inside, outcome in outcomes.items()]
        report = prove_(model, choices, example_inputs)
    for choice in choices:
        for site, sparse in choice.chosen:
            sparse.train(modes[site.name])
    return report


def _measure(
    model: nn.Module, found: list[Site], inputs: Any, rule: tuple[tuple[int, int] | None, float]
) -> _Outcome:
    seen = _capture(model, found, inputs)
    return {site.name: _try(site, seen.get(site.name), *rule) for site in found}


def _choice(found: list[Site], outcome: _Outcome, inside: str | None) -> Choice:
    of_sites = [(site, *outcome[site.name]) for site in found]
    chosen = tuple((site, sparse) for site, _, sparse in of_sites if sparse is not None)
    return Choice(tuple(report for _, report, _ in of_sites), chosen, inside)


def _other_format(model: nn.Module, outcome: _Outcome, example_inputs: Any) -> str | None:
    """How images might lie inside the network instead, if one of its convolutions was worth timing."""
    timed = any(report.kind == "Conv2d" and report.sparse_us is not None for report, _ in outcome.values())
    given = layout.format_of(example_inputs)
    if not timed or given is None or layout.kept(model) is not None:
        return None
    other = next(name for name in layout.FORMATS if name != given)
    return other if _computes_the_same(model, example_inputs, layout.lay_out(example_inputs, other)) else None


def _computes_the_same(model: nn.Module, inputs: Any, laid_out: Any) -> bool:
    """A network that views its images as vectors does not run on the other format, or mixes them up."""
    want = tree_leaves(call(model, inputs))
    try:
        got = tree_leaves(call(model, laid_out))
        return len(got) == len(want) and all(map(_alike, got, want))
    except _RUN_ERRORS:
        return False


def _alike(got: object, want: object) -> bool:
    if not isinstance(got, Tensor) or not isinstance(want, Tensor):
        return got == want
    if got.shape != want.shape or not want.numel() or not want.is_floating_point():
        return torch.equal(got, want)
    largest = want.nan_to_num(0, 0, 0).abs().max()  # what is summed in another order is off by its rounding
    return torch.allclose(got, want, 0, float(largest) * torch.finfo(want.dtype).eps ** 0.5, equal_nan=True)


def _capture(model: nn.Module, found: list[Site], example_inputs: Any) -> dict[str, Tensor]:
    """The input that each layer sees when the model runs on ``example_inputs``."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for site in (site for site in found if site.reason is None):

        def remember(_: nn.Module, args: tuple[Any, ...], name: str = site.name) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor):
                seen[name] = args[0].detach().clone()

        hooks.append(site.layer.register_forward_pre_hook(remember))
    try:
        call(model, example_inputs)
    except _RUN_ERRORS as error:
        raise ValueError(
            f"example_inputs do not run: {type(model).__name__} raised {type(error).__name__}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _try(
    site: Site, x: Tensor | None, block: tuple[int, int] | None, margin: float
) -> tuple[LayerReport, SparseLayer | None]:
    kind = site.kind
    if site.reason is not None:
        return LayerReport(site.name, kind, None, None, None, "kept", site.reason), None
    if x is None:
        reason = "the example inputs never reach its forward with one tensor"
        return LayerReport(site.name, kind, None, None, None, "kept", reason), None
    return measure_layer((site.name, site.layer), _kind_of(site.layer), x, block, margin)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; every module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
