"""`swap_` on networks that we did not write: the same outputs, and a report that leaves nothing out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from other_networks import NETWORKS, call, check_same, masked
from torch import nn

import sparsekern as sk
from sparsekern.bench import interleave
from sparsekern.nn import SparseLayer, measure, prove
from sparsekern.nn.eligible import LEFT_ALONE


def weighty(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer that multiplies by a weight of its own."""
    lone = tuple(name.rpartition(".")[2] for name in LEFT_ALONE)
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)
        or any(kind.__name__ in lone for kind in type(m).__mro__)
    }


def check_report(report: sk.SwapReport, before: dict[str, nn.Module], model: nn.Module) -> None:
    """Every layer has its line, each line is true, and what was kept is the very same module."""
    assert sorted(layer.name for layer in report.layers) == sorted(before)
    after = dict(model.named_modules())
    for layer in report.layers:
        now = after[layer.name]
        assert layer.reason and layer.decision == ("swapped" if isinstance(now, SparseLayer) else "kept")
        assert isinstance(now, SparseLayer) or now is before[layer.name]
        assert not layer.kind.startswith("Parametrized")


@pytest.mark.parametrize("block", [(1, 1), (16, 1)], ids=["1x1", "16x1"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_swapped_network_computes_the_same(name: str, block: tuple[int, int]) -> None:
    model, inputs = masked(name, block)
    want, before = call(model, inputs), weighty(model)
    report = sk.swap_(model, inputs, threshold=0.5, block=block)
    check_report(report, before, model)
    assert report.swapped or name == "GPT-2"
    check_same(call(model, inputs), want)
    assert sk.restore_(model) == len(report.swapped)
    assert all(dict(model.named_modules())[path] is layer for path, layer in before.items())
    check_same(call(model, inputs), want, 0)


def check_figures(report: sk.SwapReport, model: nn.Module) -> None:
    """What a measured swap says of each layer is what stands there, and the times it was decided on."""
    after = dict(model.named_modules())
    for layer in report.layers:
        now = after[layer.name]
        if isinstance(now, SparseLayer):
            assert (layer.block, layer.kernel, layer.sparsity) == (now.block, now.kernel, now.sparsity)
            assert None not in (layer.sparse_us, layer.dense_us, layer.torch_us, layer.best_dense)
    if report.speedup is not None:
        assert None not in (report.before_us, report.after_us)
        assert report.undone is (report.speedup.value < 1) and bool(report.swapped) is not report.undone


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"GPT-2"}))
@torch.no_grad()
def test_a_measured_swap_computes_the_same(name: str, clock: Callable[..., None]) -> None:
    """On a clock by which sparse always wins: all that is worth timing is swapped."""
    clock(sparse=100.0, after=500.0)
    model, inputs = masked(name, (16, 1))
    want, before = call(model, inputs), weighty(model)
    report = sk.swap_(model, inputs)
    check_report(report, before, model)
    check_figures(report, model)
    assert report.swapped and report.speedup is not None and report.speedup.value == 2
    check_same(call(model, inputs), want)


@pytest.mark.parametrize("name", ["torchvision vgg", "timm resnet", "ViT"])
@torch.no_grad()
def test_a_swap_by_this_machine_s_clock(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it decides."""
    short = {"rounds": 5, "min_sample_us": 20.0}
    for module in (measure, prove):
        monkeypatch.setattr(module, "interleave", lambda calls, **_: interleave(calls, **short))
    model, inputs = masked(name, (16, 1))
    want, before = call(model, inputs), weighty(model)
    report = sk.swap_(model, inputs)
    check_report(report, before, model)
    check_figures(report, model)
    check_same(call(model, inputs), want)


REASONS = {
    "torchvision mobilenet_v2": ("features.1.conv.0.0", "it has 16 groups"),
    "timm mobilenetv3": ("classifier", "timm.layers.linear.Linear is a subclass that may compute"),
    "timm tf_efficientnet": ("conv_stem", "Conv2dSame is a subclass that may compute something else"),
    "GPT-2": ("transformer.h.0.attn.c_attn", "lies transposed; an nn.Linear in its place would do"),
    "Llama": ("model.layers.0.mlp.up_proj", "reaches the threshold 50.0%"),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons_are_those_of_the_layer(name: str) -> None:
    model, _ = masked(name)
    reasons = {layer.name: layer.reason for layer in sk.swap_(model, threshold=0.5).layers}
    path, reason = REASONS[name]
    assert reason in reasons[path]


@pytest.mark.parametrize(
    ("name", "in_place", "in_a_graph"), [("torchvision resnet", 13, 25), ("timm resnet", 23, 31)]
)
@torch.no_grad()
def test_a_resnet_is_folded(name: str, in_place: int, in_a_graph: int) -> None:
    """In place all norms, and what is called once; in a graph every ReLU, and every addition."""
    model, x = masked(name)
    graph = torch.fx.symbolic_trace(model)
    want = model(x)
    for network, folded in ((graph, in_a_graph), (model, in_place)):
        sk.swap_(network, x, threshold=0.5)
        report = sk.fuse_(network, x)
        assert len(report.folded) == folded, str(report)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        check_same(network(x), want)
