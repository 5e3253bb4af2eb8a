"""Whole dense networks: the same results, the zoo's included, and a reason in words where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune

from sparsekern import zoo
from sparsekern.bench import DENSE_CONV2D, OneDNNConv2d, OneDNNLinear, best_dense_model, dense_fused
from sparsekern.bench.dense_fused import Fused
from sparsekern.bench.timing import Timing

_refusal = DENSE_CONV2D["onednn"](nn.Conv2d(2, 3, 1), torch.randn(1, 2, 4, 4))
needs_onednn = pytest.mark.skipif(isinstance(_refusal, str), reason=f"{_refusal}")


class Mask(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.arange(weight.shape[-1]) % 2)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def network() -> nn.Sequential:
    shared = nn.Linear(12, 12)
    parametrized = nn.Linear(8, 12)
    parametrize.register_parametrization(parametrized, "weight", Mask())
    return nn.Sequential(parametrized, nn.ReLU(), shared, nn.Tanh(), shared, Doubled(12, 5))


@needs_onednn
def test_a_whole_network_runs_on_onednn() -> None:
    model, x = network(), torch.randn(6, 8)
    want = model(x)
    models = best_dense_model(model, x)
    fast = models["onednn"]
    assert models["torch"] is model and isinstance(fast, nn.Sequential)
    assert [type(layer) for layer in fast] == [
        OneDNNLinear,
        nn.ReLU,
        OneDNNLinear,
        nn.Tanh,
        OneDNNLinear,
        Doubled,
    ]
    assert fast[2] is fast[4]
    torch.testing.assert_close(fast(x), want)
    # The original is untouched.
    assert not any(isinstance(layer, OneDNNLinear) for layer in model.modules())
    assert not any(layer._forward_pre_hooks for layer in model.modules())


@needs_onednn
def test_a_single_layer_is_a_network() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    fast = best_dense_model(layer, (x,))["onednn"]
    assert isinstance(fast, OneDNNLinear)
    torch.testing.assert_close(fast(x), layer(x))


@needs_onednn
def test_a_network_that_cannot_run_on_it_says_why() -> None:
    reads_weights = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    refusal = best_dense_model(reads_weights, torch.randn(2, 3, 16))["onednn"]
    assert isinstance(refusal, str) and refusal.startswith("the network does not run on oneDNN layers")
    doubles = best_dense_model(nn.Sequential(nn.Linear(4, 3).double()), torch.randn(2, 4).double())["onednn"]
    assert isinstance(doubles, str) and doubles.startswith(
        "0: oneDNN takes float32, bfloat16 or float16, not x"
    )


class Residual(nn.Module):
    """Every way to add and to cut off, a sum of two convolutions among them, and one that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.masked = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.around = nn.Conv2d(8, 8, 1)
        self.scaled = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(32, 5)
        parametrize.register_parametrization(self.masked, "weight", Mask())
        prune.l1_unstructured(self.scaled, "weight", 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        y = self.norm(self.masked(x))
        x = self.relu(y + self.around(x))
        x = torch.relu(torch.add(x, self.scaled(x), alpha=0.5))
        y = self.first.forward(x[:, :3])
        return self.fc(self.pool((y + y.relu()).add(x)).flatten(1)).relu()


def trained(model: nn.Module) -> nn.Module:
    """As training leaves batch normalisation: nothing about it is one or zero."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.weight, layer.bias):
                nn.init.normal_(tensor)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval()


@needs_onednn
@pytest.mark.parametrize("always", [True, False])
def test_a_network_of_convolutions_has_five_forms(always: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fused_wins(calls: dict[str, object], **options: float) -> dict[str, Timing]:
        return {name: Timing(name, (1.0 if (name == "fused") == always else 2.0,) * 5) for name in calls}

    monkeypatch.setattr(dense_fused, "interleave", fused_wins)
    model, x = trained(Residual()), torch.randn(2, 3, 9, 7)
    with torch.inference_mode():
        want = model(x)
        models = best_dense_model(model, x)
        assert list(models) == ["torch", "onednn", "channels_last", "onednn_opaque", "fused"]
        assert models.pop("onednn_opaque").startswith("the network cannot be made so: ")  # type: ignore
        for name, network in models.items():
            assert isinstance(network, nn.Module), (name, network)
            for given in (x, x[:1].clone(), x):
                torch.testing.assert_close(network(given), want[: len(given)], rtol=1e-4, atol=1e-5)
    graph = models["fused"].network.graph  # type: ignore[union-attr]
    kinds = [type(models["fused"].network.get_submodule(node.target)) for node in calls(graph)]  # type: ignore
    assert kinds.count(Fused) == (5 if always else 0) and nn.BatchNorm2d not in kinds
    assert kinds.count(nn.ReLU) == (0 if always else 2)
    assert any(isinstance(layer, OneDNNConv2d) for layer in models["onednn"].modules())  # type: ignore
    # The original is untouched.
    assert parametrize.is_parametrized(model.masked) and prune.is_pruned(model)
    assert not any(isinstance(layer, OneDNNConv2d) for layer in model.modules())


def calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_module"]


@needs_onednn
@pytest.mark.parametrize("name", ["conv2", "resnet20"])
def test_networks_of_the_zoo_have_all_forms(name: str) -> None:
    model = trained(zoo.model(name, torch.Generator().manual_seed(0)))
    x = torch.randn(2, *model.image)
    with torch.inference_mode():
        want = model(x)
        for form, network in best_dense_model(model, x).items():
            assert isinstance(network, nn.Module), (form, network)
            scale = float(want.abs().max())
            torch.testing.assert_close(network(x), want, rtol=0, atol=1e-4 * scale)


def test_what_cannot_be_traced_says_why() -> None:
    class Chooses(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.sum()) > 0 else -x)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(y if float(y.sum()) > 0 else -y)

    fused = best_dense_model(Network(), torch.randn(1, 3, 8, 8))["fused"]
    assert isinstance(fused, str) and fused.startswith("the network cannot be made so: ")


def test_a_form_that_computes_something_else_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = dense_fused.fold_norms

    def off(model: nn.Module) -> fx.GraphModule:
        model.get_submodule("0").bias += 0.1
        return folded(model)

    monkeypatch.setattr(dense_fused, "fold_norms", off)
    with torch.no_grad():
        models = best_dense_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(1, 3, 8, 8))
    assert models["fused"] == "the network computes something else"
    assert isinstance(models["channels_last"], nn.Module)
