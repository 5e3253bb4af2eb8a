"""Dense layers on oneDNN, and networks made ready to hold them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from sparsekern.bench.dense import Call, prepare_onednn
from sparsekern.bench.dense_conv import InLayout
from sparsekern.bench.dense_conv import prepare_onednn as prepare_onednn_conv


class OneDNNLinear(nn.Module):
    """A dense linear layer on oneDNN with a prepacked weight, for measuring: no gradient, no deep copy."""

    def __init__(self, call: Call, in_features: int, out_features: int) -> None:
        super().__init__()
        self.call = call
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.call(x)


class OneDNNConv2d(nn.Module):
    """A dense convolution on oneDNN with a prepacked weight, for measuring: no gradient, no deep copy. Its
    result is channels_last."""

    def __init__(self, call: Call, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.call = call
        self.in_channels = in_channels
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ...)."""
        return self.call(x)


def on_onednn(layer: nn.Module, x: Tensor) -> OneDNNLinear | OneDNNConv2d | str:
    """A plain `nn.Linear` or `nn.Conv2d` with its effective weight packed for inputs like `x`, checked
    against torch; or the refusal in words."""
    if isinstance(layer, nn.Linear):
        call = prepare_onednn(layer.weight, layer.bias, x)
        return call if isinstance(call, str) else OneDNNLinear(call, layer.in_features, layer.out_features)
    assert isinstance(layer, nn.Conv2d)
    prepared = prepare_onednn_conv(layer, x)
    if isinstance(prepared, str):
        return prepared
    assert isinstance(prepared, InLayout)
    # Without the copy of x: in a network every input is a new one.
    return OneDNNConv2d(prepared.compute, layer.in_channels, layer.out_channels)


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Exactly one of these kinds, parametrized or not: what a subclass does in `forward` is not known
    here."""
    kind = type(layer).__base__ if parametrize.is_parametrized(layer) else type(layer)
    return kind in kinds


def baked(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode in which plain layers hold their effective weights: no masks are applied in a
    call."""
    copied = copy.deepcopy(model).eval()
    for layer in copied.modules():
        if not is_plain(layer, nn.Linear, nn.Conv1d, nn.Conv2d):
            continue
        if hasattr(layer, "weight_orig"):
            prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
        if parametrize.is_parametrized(layer):
            # torch edits the class of the layer, which a deep copy has in common with its original.
            shared = type(layer)
            layer.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name)
    return copied.requires_grad_(False)


def to_channels_last(model: nn.Module) -> nn.Module:
    """The model itself, its weights of four dimensions in channels_last."""
    anything: Any = model  # the stub of `to` lacks memory_format
    anything.to(memory_format=torch.channels_last)
    return model


def agree(got: object, want: object) -> bool:
    """Whether two results of a network are the same but for rounding, in units of the largest of them."""
    if not isinstance(got, Tensor) or not isinstance(want, Tensor) or got.shape != want.shape:
        return False
    limit = max(1e-3, 16 * torch.finfo(want.dtype).eps) * float(want.double().abs().max())
    return bool(((got.double() - want.double()).abs() <= limit).all())
