"""What the layers are given when the network runs on the context's batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.gradients import weighed_batches
from sparsekern.prune.criteria.network import plain_copy
from sparsekern.prune.layers import pruned_layers


def unfolded(layer: nn.Module, inputs: Tensor) -> Tensor:
    """(samples, groups, features, positions): what meets the weights of one output at each of its positions.

    `inputs` is what an nn.Linear (samples, ..., in), nn.Conv1d (samples, in, length) or nn.Conv2d (samples,
    in, height, width) is given. Features are in the order of the weight, flattened to (out, features); an
    nn.Linear has one group.
    """
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        pads, zero = layer._reversed_padding_repeated_twice, layer.padding_mode == "zeros"
        padded = nn.functional.pad(inputs, pads, mode="constant" if zero else layer.padding_mode)
        line = isinstance(layer, nn.Conv1d)  # which is a map of one row
        sizes = layer.kernel_size, layer.dilation, layer.stride
        kernel, dilation, stride = ((1, *size) if line else size for size in sizes)
        padded = padded.unsqueeze(-2) if line else padded
        columns = nn.functional.unfold(padded, kernel, dilation, 0, stride)
        return columns.reshape(len(inputs), layer.groups, -1, columns.shape[2])
    return inputs.reshape(len(inputs), -1, inputs.shape[-1]).transpose(1, 2).unsqueeze(1)


def watch_inputs(
    network: nn.Module, context: Context, criterion: str, see: Callable[[str, nn.Module, Tensor], None]
) -> None:
    """Run a plain copy in eval mode on all batches; `see(name, layer, inputs)` at each call of a layer."""

    def hook(name: str, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        see(name, layer, given[0])

    for name, layer in pruned_layers(network).items():
        layer.register_forward_pre_hook(partial(hook, name))
    network.eval()
    with torch.no_grad():
        for _, (inputs, _) in weighed_batches(context, criterion):
            network(inputs)


def inputs_of(network: nn.Module, context: Context, criterion: str) -> list[Tensor]:
    """What the layer of `context.name` is given in a plain copy: one tensor for each of its calls.

    ValueError without batches, and for a layer that is not called.
    """
    found: list[Tensor] = []

    def see(name: str, layer: nn.Module, inputs: Tensor) -> None:
        if name == context.name:
            found.append(inputs)

    watch_inputs(network, context, criterion, see)
    if not found:
        raise ValueError(
            f"{criterion}: the network never called an nn.Linear or convolution of {context.name!r}"
        )
    return found


def layer_inputs(context: Context) -> list[Tensor]:
    """What the layer with the parameter `context.name` is given on the batches, one tensor for each call.

    The model runs as it is now, with its masks, in eval mode. ValueError without a model or batches, and for
    a layer that is not called.
    """
    return inputs_of(plain_copy(context, "layer_inputs"), context, "layer_inputs")


def per_group(layer: nn.Module, per_feature: Tensor) -> Tensor:
    """(groups, features) repeated for the outputs of each group and shaped like the layer's weight."""
    weight = cast(Tensor, layer.weight)
    return per_feature.repeat_interleave(len(weight) // len(per_feature), dim=0).reshape(weight.shape)
