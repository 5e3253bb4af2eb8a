"""Whole networks with and without sparse layers, timed interleaved; the fastest stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from sparsekern.bench import interleave, ratio
from sparsekern.nn import layout
from sparsekern.nn.eligible import Site
from sparsekern.nn.layer import SparseLayer
from sparsekern.nn.measure import interleave_on_gpu
from sparsekern.nn.report import LayerReport, SwapReport

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Choice:
    """What becomes of every layer, and what goes in the place of those that win. ``inside`` says how images
    lie in the network meanwhile, a key of ``layout.FORMATS``; None: as they come."""

    layers: tuple[LayerReport, ...]
    chosen: tuple[tuple[Site, SparseLayer], ...]
    inside: str | None = None


def prove_(model: nn.Module, choices: Sequence[Choice], example_inputs: Any) -> SwapReport:
    """Times the network with the layers of each choice against what it was, and leaves in place what is
    fastest.

    A masked layer applies its mask in every call. It stands for dense with its zeros baked in: sparse must
    not win by that.
    """
    named = {choice.inside or AFTER: choice for choice in choices if choice.chosen}
    if not named:
        return SwapReport(choices[0].layers)
    sites = {site.name: (site, sparse) for choice in named.values() for site, sparse in choice.chosen}
    dense = {
        name: sparse.dense_without_activation() if _applies_mask(site.layer) else site.layer
        for name, (site, sparse) in sites.items()
    }

    def run(layers: dict[str, nn.Module], inside: str | None) -> None:
        for name, (site, _) in sites.items():
            site.parent._modules[site.child] = layers[name]
        if inside is None:
            call(model, example_inputs)
        else:
            layout.lay_out(call(model, layout.lay_out(example_inputs, inside)), outside)

    outside = layout.format_of(example_inputs) or layout.CHANNELS_FIRST
    calls = {BEFORE: partial(run, dense, None)}
    for name, choice in named.items():
        sparse_layers = {site.name: sparse for site, sparse in choice.chosen}
        calls[name] = partial(run, dense | sparse_layers, choice.inside)
    device = next(sparse for _, sparse in sites.values()).values.device
    time = partial(interleave_on_gpu, device) if device.type == "cuda" else interleave
    try:
        times = time(calls, budget_s=1.0 * len(calls))
    finally:  # also when the model fails in a later call, or the user has had enough
        for site, _ in sites.values():
            site.parent._modules[site.child] = site.layer
    fastest = min(named, key=lambda name: times[name].median_us)
    before, after, choice = times[BEFORE], times[fastest], named[fastest]
    timed = partial(SwapReport, before_us=before.median_us, after_us=after.median_us)
    speedup = ratio(before, after)
    if speedup.value < 1:
        return timed(tuple(map(_put_back, choice.layers)), speedup=speedup, undone=True)
    for site, sparse in choice.chosen:
        put(site, sparse)
    if choice.inside is not None:
        layout.keep_(model, choice.inside, outside)
    return timed(choice.layers, speedup=speedup, inside=choice.inside)


def _put_back(layer: LayerReport) -> LayerReport:
    if layer.decision != "swapped":
        return layer
    return replace(layer, decision="kept", reason="put back: the whole network had become slower")


def put(site: Site, sparse: SparseLayer) -> None:
    """``sparse`` in the place of the site's layer, which it keeps for ``restore_``."""
    sparse.__dict__["_replaced"] = site.layer  # not a submodule: invisible to parameters() and state_dict()
    site.parent._modules[site.child] = sparse


def call(model: nn.Module, inputs: Any) -> Any:
    """The model on inputs as ``swap_`` takes them: a tensor, a tuple of arguments, a dict of them by name."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _applies_mask(layer: nn.Module) -> bool:
    return hasattr(layer, "parametrizations") or hasattr(layer, "weight_orig")
