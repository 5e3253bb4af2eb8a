"""Networks of other people's packages, small and with random weights, and what they are called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.masks import mask_, maskable

Made = tuple[nn.Module, Any]


def _vision(name: str, **arguments: Any) -> Callable[[], Made]:
    def make() -> Made:
        models = pytest.importorskip("torchvision.models")
        return getattr(models, name)(num_classes=10, **arguments), torch.randn(2, 3, 64, 64)

    return make


def _resnet() -> Made:
    resnet = pytest.importorskip("torchvision.models.resnet")
    return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10), torch.randn(2, 3, 64, 64)


def _vgg() -> Made:
    vgg = pytest.importorskip("torchvision.models.vgg")
    model = vgg.VGG(vgg.make_layers([16, "M", 32, "M", 64, 64]), num_classes=10)
    return _with_small_head(model, 64, (0, 3, 6)), torch.randn(2, 3, 32, 32)


def _alexnet() -> Made:
    model = pytest.importorskip("torchvision.models").alexnet(num_classes=10)
    return _with_small_head(model, 256, (1, 4, 6)), torch.randn(2, 3, 64, 64)


def _with_small_head(model: Any, channels: int, places: tuple[int, ...]) -> nn.Module:
    """In place of two layers of some hundred million weights."""
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    for place, (inner, out) in zip(places, ((channels, 64), (64, 64), (64, 10)), strict=True):
        model.classifier[place] = nn.Linear(inner, out)
    return model  # type: ignore[no-any-return]


def _convnext() -> Made:
    convnext = pytest.importorskip("torchvision.models.convnext")
    stages = [convnext.CNBlockConfig(32, 64, 1), convnext.CNBlockConfig(64, None, 1)]
    return convnext.ConvNeXt(stages, num_classes=10), torch.randn(2, 3, 32, 32)


def _timm(name: str, side: int = 64, **arguments: Any) -> Callable[[], Made]:
    def make() -> Made:
        timm = pytest.importorskip("timm")
        return timm.create_model(name, num_classes=10, **arguments), torch.randn(2, 3, side, side)

    return make


def _text(kind: str, config: str, **sizes: Any) -> Callable[[], Made]:
    def make() -> Made:
        transformers = pytest.importorskip("transformers")
        model = getattr(transformers, kind)(getattr(transformers, config)(vocab_size=99, **sizes))
        ids = torch.arange(24).reshape(2, 12)
        return model, {"input_ids": ids, "attention_mask": (ids != 11).long()}

    return make


def _vit() -> Made:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(**BERT, image_size=32, patch_size=8)
    return transformers.ViTModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


BERT = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
_DISTILBERT = dict(dim=64, n_layers=2, n_heads=4, hidden_dim=128)
_GPT2 = dict(n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)

NETWORKS: dict[str, Callable[[], Made]] = {
    "torchvision resnet": _resnet,
    "torchvision vgg": _vgg,
    "torchvision alexnet": _alexnet,
    "torchvision mobilenet_v2": _vision("mobilenet_v2", width_mult=0.35),
    "torchvision efficientnet_b0": _vision("efficientnet_b0"),
    "torchvision convnext": _convnext,
    "timm resnet": _timm("test_resnet"),
    "timm mobilenetv3": _timm("mobilenetv3_small_050"),
    "timm efficientnet": _timm("test_efficientnet"),
    "timm tf_efficientnet": _timm("tf_mobilenetv3_small_minimal_100"),
    "timm convnext": _timm("test_convnext"),
    "timm vit": _timm("test_vit", 32, img_size=32),
    "BERT": _text("BertModel", "BertConfig", **BERT),
    "DistilBERT": _text("DistilBertModel", "DistilBertConfig", **_DISTILBERT),
    "GPT-2": _text("GPT2LMHeadModel", "GPT2Config", **_GPT2),
    "Llama": _text("LlamaForCausalLM", "LlamaConfig", **BERT, num_key_value_heads=2),
    "ViT": _vit,
}


def masked(name: str, block: tuple[int, int] = (1, 1), sparsity: float = 0.9) -> Made:
    """In eval mode, at random or by the magnitude of blocks; layers smaller than the block stay dense."""
    model, inputs = NETWORKS[name]()
    layers = maskable(model)
    small = [path for path, layer in layers.items() if len(layer.weight) < block[0]]
    if block == (1, 1):  # prune_ would sort millions of numbers
        for layer in layers.values():
            mask_(layer, torch.rand(layer.weight.shape) >= sparsity)
    elif len(small) < len(layers):
        sk.prune.prune_(model, sparsity, block=block, ignore=small)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():  # batch normalisation learns how little is left of a signal, or nothing comes out
        call(model.train(), inputs)
    return model.eval(), inputs


def call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def tensors(output: Any) -> Iterator[Tensor]:
    """All of an output: a tensor, a tuple, a dict or a dataclass of these."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors(value)


def check_same(got: Any, want: Any, limit: float = 1e-5) -> None:
    """Equal outputs, but for `limit` of the largest number."""
    pairs = list(zip(tensors(got), tensors(want), strict=True))
    assert pairs
    for ours, theirs in pairs:
        largest = float(theirs.detach().float().abs().max())
        assert ours.dtype == theirs.dtype and largest > 0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=limit * largest)
