"""swap_: masked layers become sparse ones where that is measured to be faster, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sparsekern.bench import interleave, ratio
from sparsekern.nn.eligible import Site, sites
from sparsekern.nn.linear import SparseLinear
from sparsekern.nn.measure import measure_linear
from sparsekern.nn.report import LayerReport, SwapReport

SWAPS: dict[type[nn.Module], type[SparseLinear]] = {nn.Linear: SparseLinear}
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
    (eager torch, oneDNN prepacked) are timed interleaved on it, on as many threads as torch is set to; a
    layer is swapped only if its numbers agree and it beats the best dense one by ``margin`` with the whole 95
    % interval above 1. In the end the whole network is timed before against after, and everything is put back
    if it became slower. Nothing is ever swapped in silence: see the report.

    The model runs in eval mode meanwhile, without gradients; its modes are restored.

    Args:
        model: any module; layers nested in it are replaced, not the module itself.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a dict of keyword
            arguments. Its
            number of rows matters: a block is chosen for it. May be None with a numeric ``threshold``.
        threshold: ``"auto"`` measures; a number in [0, 1] swaps every layer at least that sparse, untimed.
        block: the one block to use, for layers in which it fits; by default the best of several.
        filter_fn: ``filter_fn(layer, name) -> bool``; layers for which it is false are left alone.
        margin: by how much sparse must win, 0.05 is 5 %.

    Raises:
        ValueError: ``example_inputs`` are missing or do not run, ``threshold`` is neither "auto" nor in [0,
        1].
    """
    _check(model, example_inputs, threshold)
    found = sites(model, tuple(SWAPS))
    if filter_fn is not None:
        found = [
            replace(site, reason=site.reason or "left out by filter_fn")
            if not filter_fn(site.layer, site.name)
            else site
            for site in found
        ]
    if threshold != "auto":
        return _swap_by_threshold(found, threshold, block)
    with _evaluating(model):
        inputs = _capture(model, found, example_inputs)
        outcome = [_try(site, inputs.get(site.name), block, margin) for site in found]
        layers = tuple(report for report, _ in outcome)
        chosen = [
            (site, sparse) for site, (_, sparse) in zip(found, outcome, strict=True) if sparse is not None
        ]
        return _prove(model, chosen, layers, example_inputs)


def restore_(model: nn.Module) -> int:
    """Puts back every layer that ``swap_`` replaced, the very same objects; returns how many.

    Values that were trained meanwhile are written into the layer that comes back. A SparseLinear that was
    made by hand becomes a plain ``nn.Linear`` with the same weight.
    """
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, SparseLinear):
                parent._modules[name] = _original(child)
                count += 1
    return count


def _original(sparse: SparseLinear) -> nn.Module:
    original = cast("nn.Linear | None", sparse.__dict__.get("_replaced"))
    if original is None:
        return sparse.to_dense()
    now = sparse.weight.detach()
    same_place = original.weight.device == now.device and original.weight.dtype == now.dtype
    if not same_place:
        original.to(now)
    with torch.no_grad():
        if not torch.equal(original.weight, now):
            _assign(original, now)
        if original.bias is not sparse.bias and original.bias is not None:
            original.bias.copy_(sparse.bias)
    return original.train(sparse.training)


def _assign(linear: nn.Linear, weight: Tensor) -> None:
    """Writes a weight, behind its mask if it has one, or behind torch.nn.utils.prune's."""
    if hasattr(linear, "parametrizations"):
        linear.weight = weight
    elif hasattr(linear, "weight_orig"):
        cast(Tensor, linear.weight_orig).copy_(weight)
    else:
        linear.weight.copy_(weight)


def _applies_mask(layer: nn.Module) -> bool:
    return hasattr(layer, "parametrizations") or hasattr(layer, "weight_orig")


def _put(site: Site, sparse: SparseLinear) -> None:
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
            "use SparseLinear.from_dense"
        )


def _swap_by_threshold(found: list[Site], threshold: float, block: tuple[int, int] | None) -> SwapReport:
    layers = []
    for site in found:
        kind = type(site.layer).__name__
        if site.reason is not None:
            layers.append(LayerReport(site.name, kind, None, None, None, "kept", site.reason))
            continue
        sparse = SWAPS[nn.Linear].from_dense(cast(nn.Linear, site.layer), block)
        share = sparse.sparsity
        if share < threshold:
            reason = f"sparsity {share:.1%} is below the threshold {threshold:.1%}"
            layers.append(LayerReport(site.name, "Linear", share, None, None, "kept", reason))
            continue
        _put(site, sparse)
        reason = f"sparsity {share:.1%} reaches the threshold {threshold:.1%}; not timed"
        layers.append(LayerReport(site.name, "Linear", share, sparse.block, sparse.kernel, "swapped", reason))
    return SwapReport(tuple(layers))


def _capture(model: nn.Module, found: list[Site], example_inputs: Any) -> dict[str, Tensor]:
    """The input that each layer sees when the model runs on ``example_inputs``."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for site in found:

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
) -> tuple[LayerReport, SparseLinear | None]:
    kind = type(site.layer).__name__
    if site.reason is not None:
        return LayerReport(site.name, kind, None, None, None, "kept", site.reason), None
    if x is None:
        reason = "the example inputs never reach its forward with one tensor"
        return LayerReport(site.name, kind, None, None, None, "kept", reason), None
    return measure_linear(site.name, cast(nn.Linear, site.layer), x, block, margin)


def _prove(
    model: nn.Module,
    chosen: list[tuple[Site, SparseLinear]],
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
        (site, sparse.to_dense() if _applies_mask(site.layer) else site.layer) for site, sparse in chosen
    ]

    def before() -> None:
        for site, layer in dense:
            site.parent._modules[site.child] = layer
        _call(model, example_inputs)

    def after() -> None:
        for site, sparse in chosen:
            site.parent._modules[site.child] = sparse
        _call(model, example_inputs)

    times = interleave({"before": before, "after": after}, budget_s=2.0)
    speedup = ratio(times["before"], times["after"])
    undone = speedup.value < 1
    for site, sparse in chosen:
        if undone:
            site.parent._modules[site.child] = site.layer
        else:
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
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; every module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
