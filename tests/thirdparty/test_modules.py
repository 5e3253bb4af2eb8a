"""What networks are made of besides plain layers: torch's transformers, hooks, shared and masked weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from other_networks import call, check_same, masked, tensors
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import sparsekern as sk
from sparsekern.masks import maskable


def reasons(report: sk.SwapReport) -> dict[str, str]:
    return {layer.name: layer.reason for layer in report.layers}


def zeroed_(model: nn.Module, share: float = 0.9) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= torch.rand(parameter.shape) >= share
    return model


# ---- torch's own transformers and recurrent layers


@pytest.mark.parametrize("training", [False, True])
def test_a_transformer_encoder_is_left_alone(training: bool) -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True), 2)
    model = zeroed_(nn.Sequential(encoder, nn.Linear(32, 16))).train(training)
    x = torch.randn(2, 5, 32)
    with nullcontext() if training else torch.no_grad():  # without gradients, eval takes the fast path
        want = model(x)
        report = sk.swap_(model, x, threshold=0.5)
        assert [layer.name for layer in report.swapped] == ["1"]
        check_same(model(x), want)
    said = reasons(report)
    assert said["0.layers.0.linear1"] == "nn.TransformerEncoderLayer reads its weight past its forward"
    assert said["0.layers.1.self_attn"] == "torch multiplies by its weights inside one function"
    assert said["0.layers.1.self_attn.out_proj"] == "nn.MultiheadAttention reads its weight past its forward"


def test_a_transformer_decoder_and_attention_are_never_wrong() -> None:
    model = zeroed_(nn.TransformerDecoderLayer(32, 4, 64, 0.0, batch_first=True)).eval()
    inputs = {"tgt": torch.randn(2, 5, 32), "memory": torch.randn(2, 7, 32)}
    want = model(**inputs)
    report = sk.swap_(model, inputs, threshold=0.5)
    assert [layer.name for layer in report.swapped] == ["linear1", "linear2"]
    check_same(model(**inputs), want)
    assert "inside one function" in reasons(report)["multihead_attn"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_left_alone_with_words(kind: Callable[..., nn.Module]) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = kind(16, 32), nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.recurrent(x)[0])
            return y

    model, x = zeroed_(Tagger()), torch.randn(5, 2, 16)
    want, before = model(x), model.recurrent
    report = sk.swap_(model, x, threshold=0.5)
    assert reasons(report)["recurrent"] == "torch multiplies by its weights inside one op"
    assert model.recurrent is before and [layer.name for layer in report.swapped] == ["head"]
    check_same(model(x), want)


def test_gpt2_with_linears_in_place_is_swapped() -> None:
    """What docs/networks.md tells users to do."""
    model, inputs = masked("GPT-2")
    page = (Path(sk.__file__).parents[1] / "docs" / "networks.md").read_text("utf-8")
    (recipe,) = re.findall(r"^```python\n([^`]*Conv1D[^`]*)^```", page, flags=re.MULTILINE)
    exec(recipe, {"model": model})
    model.eval()
    sk.prune.prune_(model, 0.9, ignore=["lm_head"])
    want = call(model, inputs)
    report = sk.swap_(model, inputs, threshold=0.5)
    assert len(report.swapped) == 8 and "tied" in reasons(report)["lm_head"]
    check_same(call(model, inputs), want)


# ---- shared, parametrized and pruned weights; hooks


def test_shared_weights_stay_shared() -> None:
    model = nn.Sequential(nn.Embedding(20, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 20))
    zeroed_(model)
    model[3].weight = model[0].weight
    report = sk.swap_(model, threshold=0.5)
    assert reasons(report)["3"] == "its weight or bias is tied to another layer's"
    assert model[3].weight is model[0].weight and [layer.name for layer in report.swapped] == ["1"]


@pytest.mark.parametrize("remove", [False, True])
def test_a_network_pruned_by_torch(remove: bool) -> None:
    model, inputs = masked("torchvision vgg", (1, 1), 0.0)
    layers = [(layer, "weight") for layer in maskable(model).values()]
    for layer, _ in layers:
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=0.9)
    if remove:
        for layer, name in layers:
            torch_prune.remove(layer, name)
    want = call(model, inputs)
    assert sk.swap_(model, inputs, threshold=0.7).swapped
    check_same(call(model, inputs), want)
    sk.restore_(model)
    assert any(hasattr(layer, "weight_mask") for layer, _ in layers) is not remove


def test_parametrized_layers_say_by_what() -> None:
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(32, 32)))
    assert reasons(sk.swap_(model, threshold=0.0))["0"] == "it is parametrized by _SpectralNorm"


HOOKS: dict[str, Callable[[nn.Module, Callable[..., None]], object]] = {
    "forward": lambda m, f: m.register_forward_hook(f),
    "forward pre": lambda m, f: m.register_forward_pre_hook(f),
    "backward": lambda m, f: m.register_full_backward_hook(f),
    "state dict": lambda m, f: m.register_state_dict_post_hook(f),
    "state dict pre": lambda m, f: m.register_state_dict_pre_hook(f),
    "load pre": lambda m, f: m.register_load_state_dict_pre_hook(f),
    "load post": lambda m, f: m.register_load_state_dict_post_hook(f),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_are_kept(kind: str) -> None:
    """Those on a layer keep the layer; those on what is around it go on being called."""
    model = zeroed_(nn.Sequential(nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 16))))
    calls = []

    def hook(module: nn.Module, *_: object) -> None:
        calls.append(module)

    HOOKS[kind](model[0], hook)
    HOOKS[kind](model[1], hook)
    layer = model[0]
    report = sk.swap_(model, threshold=0.5)
    assert model[0] is layer and reasons(report)["0"] == "it has hooks, which a swapped layer would lose"
    assert [one.name for one in report.swapped] == ["1.0"]
    model(torch.randn(2, 16, requires_grad=True)).sum().backward()
    model.load_state_dict(model.state_dict())
    assert {id(module) for module in calls} == {id(model[0]), id(model[1])}


# ---- modes, dtypes, memory formats


@pytest.mark.parametrize("name", ["torchvision resnet", "BERT"])
def test_bfloat16_and_autocast(name: str) -> None:
    model, inputs = masked(name, (16, 1))
    with torch.no_grad():
        exact = call(model, inputs)
        for autocast in (False, True):
            net = copy.deepcopy(model) if autocast else copy.deepcopy(model).bfloat16()
            given = inputs if autocast or isinstance(inputs, dict) else inputs.bfloat16()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                want = call(net, given)
                assert sk.swap_(net, given, threshold=0.5).swapped
                got = call(net, given)
            for ours, theirs, truth in zip(tensors(got), tensors(want), tensors(exact), strict=True):
                assert ours.dtype == theirs.dtype
                error = [float((y.float() - truth).norm() / truth.norm()) for y in (ours, theirs)]
                assert error[0] <= 1.5 * error[1] + 2**-8  # not farther from the truth than dense


def test_training_mode_and_channels_last() -> None:
    model, x = masked("torchvision resnet", (16, 1))
    model.train().to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    assert sk.swap_(model, x, threshold=0.5).swapped and all(m.training for m in model.modules())
    got, want = model(x), twin(x)
    check_same(got, want, 1e-4)
    got.square().sum().backward()
    want.square().sum().backward()
    ours, theirs = model.bn1.weight.grad, twin.bn1.weight.grad
    assert ours is not None and theirs is not None
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3 * float(theirs.abs().max()))


# ---- where it cannot help


def state_of(model: nn.Module) -> tuple[list[int], dict[str, Tensor]]:
    return [id(m) for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}


MEASURED = r"expected [\d.]+ times the best dense time|[\d.]+x \(.*\): (slower|not 5 % faster|faster, but)"


@pytest.mark.parametrize(
    ("sparsity", "width", "sentence"),
    [
        (0.0, 256, "no weight is zero"),
        (0.3, 256, MEASURED),
        (0.9, 4, MEASURED),
    ],
    ids=["dense", "30 %", "tiny"],
)
def test_where_it_cannot_help_nothing_changes(sparsity: float, width: int, sentence: str) -> None:
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).train()
    with torch.no_grad():
        for layer in maskable(model).values():
            keep = torch.rand(layer.weight.shape) >= sparsity
            layer.weight.copy_(torch.where(keep, layer.weight, 0))
    before, inputs = state_of(model), torch.randn(256, width)
    report = sk.swap_(model, inputs)
    after = state_of(model)
    assert after[0] == before[0] and all(m.training for m in model.modules())
    assert all(torch.equal(after[1][name], tensor) for name, tensor in before[1].items())
    assert [layer.decision for layer in report.layers] == ["kept", "kept"]
    assert all(re.match(sentence, layer.reason) for layer in report.layers), report
    assert report.summary() == "0 of 2 layers swapped; the network was not timed"
