"""Network slimming: channels by the scale of their BatchNorm (Liu et al. 2017, arXiv 1708.06519)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.network import layer_of, plain_copy

_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm


def score(weight: Tensor, context: Context) -> Tensor:
    """|gamma| of the BatchNorm that reads the layer's output, for every weight of that output channel.

    The BatchNorm is found by running the network on one sample of the batches. ValueError without a model
    or batches, and for a layer that no BatchNorm with a scale reads, or more than one.
    """
    if not context.batches:
        raise ValueError(
            "batchnorm follows a sample through the network: Context(batches=[(inputs, targets)]) is "
            "expected, got no batch"
        )
    network = plain_copy(context, "batchnorm").eval()
    layer = layer_of(network, weight, context, "batchnorm")
    readers = _readers(network, layer, context.batches[0][0][:1])
    if len(readers) != 1 or readers[0].weight is None or len(readers[0].weight) != len(weight):
        raise ValueError(
            f"batchnorm: the output of {context.name!r} must go straight into one BatchNorm with a scale for "
            f"each of its {len(weight)} channels, got {readers}: ignore this layer, or take another criterion"
        )
    scale = readers[0].weight.detach().abs().to(torch.float32)
    return scale.reshape(-1, *[1] * (weight.dim() - 1)).expand(weight.shape).clone()


def _readers(network: nn.Module, layer: nn.Module, inputs: Tensor) -> list[_Norm]:
    """The BatchNorms that are given the very tensor that the layer returned."""
    outputs: list[Tensor] = []
    readers: dict[_Norm, None] = {}

    def reads(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(norm, _Norm) and any(given[0] is output for output in outputs):
            readers[norm] = None

    layer.register_forward_hook(lambda _, given, output: outputs.append(output))
    for module in network.modules():
        if isinstance(module, _Norm):
            module.register_forward_pre_hook(reads)
    with torch.no_grad():
        network(inputs)
    return list(readers)
