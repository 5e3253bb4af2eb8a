"""Whole networks that are dense: what a network with sparse layers is timed against."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsekern.bench.dense import Call
from sparsekern.bench.dense_fused import fused_model
from sparsekern.bench.dense_layers import (
    OneDNNConv2d,
    OneDNNLinear,
    agree,
    baked,
    is_plain,
    on_onednn,
    to_channels_last,
)

Inputs = tuple[Tensor, ...]


class ConvertedInputs(nn.Module):
    """A network in a layout of its own. As in `InLayout`, the inputs that it was made with are converted
    once, before; any others in the call."""

    def __init__(self, network: nn.Module, convert: Call, inputs: Inputs) -> None:
        super().__init__()
        self.network, self.convert, self.inputs = network, convert, inputs
        self.converted = tuple(map(convert, inputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the network computes."""
        same = [given is known for given, known in zip(inputs, self.inputs, strict=False)]
        known = len(inputs) == len(self.inputs) and all(same)
        result: Tensor = self.network(*(self.converted if known else map(self.convert, inputs)))
        return result.to_dense() if isinstance(result, Tensor) and result.is_mkldnn else result


def best_dense_model(model: nn.Module, example: Tensor | Inputs) -> dict[str, nn.Module | str]:
    """Whole networks to time against a sparse one; a str is the reason in words why there is none.

    "torch" is the model itself. "onednn" is a deep copy in which every plain `nn.Linear` and `nn.Conv2d` runs
    on oneDNN with its effective weight (parametrizations applied), packed for the input that `example` brings
    to it, each layer checked against torch.

    Of a network with plain convolutions there are also copies in eval mode with masks baked in:
    "channels_last", eager with weights and input in this memory format; "onednn_opaque", by
    `torch.utils.mkldnn.to_mkldnn`; "fused", in which batch normalisation is folded into convolutions, an
    addition and a ReLU behind a layer are computed with it, and every layer runs on the faster of oneDNN
    and eager torch.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    found: dict[str, nn.Module | str] = {"torch": model, "onednn": _onednn_model(model, inputs)}
    if any(is_plain(layer, nn.Conv2d) for layer in model.modules()):
        with torch.no_grad():
            plain = baked(model)
            want = plain(*inputs)
            for name, make in _OF_CONVOLUTIONS.items():
                found[name] = _checked(make, plain, inputs, want)
    return found


def _checked(
    make: Callable[[nn.Module, Inputs], nn.Module], plain: nn.Module, inputs: Inputs, want: object
) -> nn.Module | str:
    """The network that `make` makes of a copy of `plain`, if it computes the same; or what stands against
    it."""
    try:
        network = make(copy.deepcopy(plain), inputs)
        return network if agree(network(*inputs), want) else "the network computes something else"
    except (RuntimeError, AttributeError, TypeError, ValueError, KeyError, AssertionError) as error:
        return f"the network cannot be made so: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _channels_last_model(model: nn.Module, inputs: Inputs) -> nn.Module:
    return ConvertedInputs(to_channels_last(model), _channels_last, inputs)


def _opaque_model(model: nn.Module, inputs: Inputs) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is made of TorchScript, which is on its way out
        from torch.utils.mkldnn import to_mkldnn

        return ConvertedInputs(to_mkldnn(model), _opaque, inputs)  # type: ignore[no-untyped-call]


def _fused_model(model: nn.Module, inputs: Inputs) -> nn.Module:
    return ConvertedInputs(fused_model(model, tuple(map(_channels_last, inputs))), _channels_last, inputs)


_OF_CONVOLUTIONS: dict[str, Callable[[nn.Module, Inputs], nn.Module]] = {
    "channels_last": _channels_last_model,
    "onednn_opaque": _opaque_model,
    "fused": _fused_model,
}


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _opaque(x: Tensor) -> Tensor:
    return x.contiguous().to_mkldnn()


def _onednn_model(model: nn.Module, inputs: Inputs) -> nn.Module | str:
    copied = copy.deepcopy(model)
    packed: dict[nn.Module, OneDNNLinear | OneDNNConv2d | str] = {}

    def pack(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        packed[layer] = on_onednn(layer, args[0])

    plain = [layer for layer in copied.modules() if is_plain(layer, nn.Linear, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(pack) for layer in plain]
    with torch.no_grad():
        copied(*inputs)
        for hook in hooks:
            hook.remove()
        for name, layer in copied.named_modules():
            if isinstance(refusal := packed.get(layer), str):
                return f"{name or 'the layer'}: {refusal}"
        swapped = _replaced(copied, {old: new for old, new in packed.items() if not isinstance(new, str)})
        try:
            swapped(*inputs)
        except (RuntimeError, AttributeError) as error:  # a parent may read child.weight past child.forward
            return f"the network does not run on oneDNN layers: {str(error).splitlines()[0]}"
    return swapped


def _replaced(model: nn.Module, new: dict[nn.Module, OneDNNLinear | OneDNNConv2d]) -> nn.Module:
    if model in new:
        return new[model]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new:
                setattr(parent, name, new[child])
    return model
