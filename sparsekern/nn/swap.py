"""swap_: masked layers become sparse ones where that is measured to be faster, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn

from sparsekern.bench import interleave, ratio
from sparsekern.formats.block_sparse import INT32_MAX
from sparsekern.masks import fit_block, mask_
from sparsekern.nn.conv import Conv, SparseConv1d, SparseConv2d
from sparsekern.nn.eligible import Site, sites
from sparsekern.nn.layer import SparseLayer, effective_weight, share_of_zeros
from sparsekern.nn.linear import SparseLinear
from sparsekern.nn.measure import batched, interleave_on_gpu, measure_layer, time_layers
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

    On a GPU it is the GPU's clock that counts, launches included. Candidates that nobody tuned for such an
    input are tuned before they are timed, which takes some seconds a layer, and what was found is kept on
    disk for the next time (``SPARSEKERN_CACHE``). Nothing is tuned in a forward call.

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
    found = sites(model, tuple(SWAPS))
    if filter_fn is not None:
        found = [
            replace(site, reason="left out by filter_fn")
            if site.reason is None and not filter_fn(site.layer, site.name)
            else site
            for site in found
        ]
    if threshold != "auto":
        return _swap_by_threshold(found, threshold, block)
    return _swap_by_measurement(model, found, example_inputs, (block, margin))


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


def restore_(model: nn.Module) -> int:
    """Puts back every layer that ``swap_`` replaced, the very same objects; returns how many.

    Values that were trained meanwhile are written into the layer that comes back. A sparse layer that was
    made by hand, copied or loaded, or into which ``fuse_`` folded another, knows no such layer: it becomes a
    plain one with the same weight. Where it has an activation, an ``nn.Sequential`` of the dense layer and
    the activation takes its place.

    Raises:
        ValueError: ``model`` is a sparse layer itself, or one in it is called with a residual, as ``fuse_``
            makes graphs do: plain layers take none. Nothing is changed then.
    """
    _refuse_residuals(model)
    if isinstance(model, SparseLayer):
        raise ValueError(
            f"restore_ replaces layers inside a module; got a bare {type(model).__name__}: use its to_dense"
        )
    found: dict[SparseLayer, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, SparseLayer):
                found[child] = parent._modules[name] = found[child] if child in found else _restored(child)
    return len(found)


def _refuse_residuals(model: nn.Module) -> None:
    for graph in (module for module in model.modules() if isinstance(module, fx.GraphModule)):
        modules = dict(graph.named_modules())
        for node in graph.graph.nodes:
            layer = modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(layer, SparseLayer) and (len(node.args) > 1 or node.kwargs):
                raise ValueError(
                    f"{node.target} is called with a residual, which an nn.{layer.dense_name} does not take; "
                    "expected restore_ before fuse_, or a copy from before it"
                )


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def _restored(sparse: SparseLayer) -> nn.Module:
    dense = _original(sparse)
    if sparse.activation is None:
        return dense
    return nn.Sequential(dense, _ACTIVATIONS[sparse.activation]()).train(sparse.training)


def _original(sparse: SparseLayer) -> nn.Module:
    original = cast("nn.Linear | Conv | None", sparse.__dict__.get("_replaced"))
    if original is None:
        return sparse.dense_without_activation()
    if original.weight.device != sparse.values.device or original.weight.dtype != sparse.values.dtype:
        original.to(sparse.values)
    weight, alive = sparse.weight.detach(), sparse.mask
    before, before_alive = effective_weight(original)
    with torch.no_grad():
        if not _equal(weight, before) or bool((alive & ~before_alive).any()):
            _assign(original, weight, alive)
        if original.bias is not sparse.bias and original.bias is not None and sparse.bias is not None:
            original.bias.copy_(sparse.bias)
    for name, parameter in original.named_parameters():
        if name != "bias":
            parameter.requires_grad_(sparse.values.requires_grad)
    return original.train(sparse.training)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether all numbers are the same; NaN is the same as NaN."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _assign(layer: nn.Linear | Conv, weight: Tensor, alive: Tensor) -> None:
    """Writes a weight, and what of it is alive into the layer's own mask if it has one."""
    if hasattr(layer, "parametrizations"):
        mask_(layer, alive)
        layer.weight = weight  # behind the mask, through Masked.right_inverse
    elif hasattr(layer, "weight_orig"):
        cast(Tensor, layer.weight_mask).copy_(alive)
        cast(Tensor, layer.weight_orig).copy_(weight)
        layer.weight = weight  # torch.nn.utils.prune makes it anew in forward only
    else:
        layer.weight.copy_(weight)


def _kind_of(layer: nn.Module) -> type[SparseLayer]:
    return next(sparse for dense, sparse in SWAPS.items() if isinstance(layer, dense))


def _applies_mask(layer: nn.Module) -> bool:
    return hasattr(layer, "parametrizations") or hasattr(layer, "weight_orig")


def _put(site: Site, sparse: SparseLayer) -> None:
    sparse.__dict__["_replaced"] = site.layer  # not a submodule: invisible to parameters() and state_dict()
    site.parent._modules[site.child] = sparse


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


def _swap_by_threshold(found: list[Site], threshold: float, block: tuple[int, int] | None) -> SwapReport:
    outcome = [_by_threshold(site, threshold, block) for site in found]
    for site, (_, sparse) in zip(found, outcome, strict=True):
        if sparse is not None:
            _put(site, sparse)
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


def _swap_by_measurement(
    model: nn.Module, found: list[Site], example_inputs: Any, rule: tuple[tuple[int, int] | None, float]
) -> SwapReport:
    modes = [site.layer.training for site in found]
    with evaluating(model):
        inputs = _capture(model, found, example_inputs)
        outcome = [_try(site, inputs.get(site.name), *rule) for site in found]
        layers = tuple(report for report, _ in outcome)
        chosen = [
            (site, sparse) for site, (_, sparse) in zip(found, outcome, strict=True) if sparse is not None
        ]
        report = _prove(model, chosen, layers, example_inputs)
    for (_, sparse), training in zip(outcome, modes, strict=True):
        if sparse is not None:
            sparse.train(training)
    return report


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
        _call(model, example_inputs)
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


def _prove(
    model: nn.Module,
    chosen: list[tuple[Site, SparseLayer]],
    layers: tuple[LayerReport, ...],
    example_inputs: Any,
) -> SwapReport:
    """Times the whole network with and without the chosen layers, and leaves in place what is faster.

    A masked layer applies its mask in every call. It stands for dense with its zeros baked in: sparse must
    not win by that.
    """
    if not chosen:
        return SwapReport(layers)
    dense = [
        (site, sparse.dense_without_activation() if _applies_mask(site.layer) else site.layer)
        for site, sparse in chosen
    ]

    def before() -> None:
        for site, layer in dense:
            site.parent._modules[site.child] = layer
        _call(model, example_inputs)

    def after() -> None:
        for site, sparse in chosen:
            site.parent._modules[site.child] = sparse
        _call(model, example_inputs)

    device, undone = chosen[0][1].values.device, True
    time = partial(interleave_on_gpu, device) if device.type == "cuda" else interleave
    try:
        times = time({"before": before, "after": after}, budget_s=2.0)
        speedup = ratio(times["before"], times["after"])
        undone = speedup.value < 1
    finally:  # also when the model fails in a later call, or the user has had enough
        for site, sparse in chosen:
            site.parent._modules[site.child] = site.layer
            if not undone:
                _put(site, sparse)
    if undone:
        layers = tuple(
            replace(layer, decision="kept", reason="put back: the whole network had become slower")
            if layer.decision == "swapped"
            else layer
            for layer in layers
        )
    return SwapReport(layers, times["before"].median_us, times["after"].median_us, speedup, undone)


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


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
