"""Optimal brain damage: the rise of the loss that the second derivative predicts (LeCun, Denker & Solla 1990,
NeurIPS 2, section 2)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.gradients import weighed_batches
from sparsekern.prune.criteria.inputs import unfolded
from sparsekern.prune.criteria.network import layer_of, plain_copy


def score(weight: Tensor, context: Context) -> Tensor:
    """h_kk · w_k² / 2, signed, with the exact second derivative h_kk of the mean loss for each weight.

    At a minimum of the loss it is what deleting the weight costs, up to terms of third order.

    The paper passes second derivatives back layer by layer and drops mixed terms on the way. Here nothing
    is dropped: a weight acts on the loss through its layer's output alone, in which it is linear, so that
    h_kk = Σ x_p x_q ∂²L / ∂y_p ∂y_q over the positions p, q of its output channel. That takes a
    differentiation of the gradient for each element of the layer's output (of one sample; all samples go
    together): 300 for a layer of 300 units, channels x positions for a convolution. For small networks;
    "obd-hutchinson" estimates it for large ones.

    The network runs in eval mode, where samples do not meet; nor may they in the loss. ValueError without a
    model or batches, and for a layer that is not called exactly once, with one row for each sample.
    """
    network = plain_copy(context, "obd").eval()
    layer = layer_of(network, weight, context, "obd")
    return (curvature(network, layer, context) * weight.detach().square() / 2).to(torch.float32)


def curvature(network: nn.Module, layer: nn.Module, context: Context) -> Tensor:
    """∂²L / ∂w² for each weight of a layer of a plain copy in eval mode, L the mean loss over the batches."""
    calls: list[tuple[Tensor, Tensor]] = []

    def probe(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((given[0].detach(), torch.zeros_like(output, requires_grad=True)))
        return output + calls[-1][1]

    layer.register_forward_hook(probe)
    weight = cast(Tensor, layer.weight)
    total = torch.zeros_like(weight).flatten(1)
    for share, (inputs, targets) in weighed_batches(context, "obd"):
        calls.clear()
        with torch.enable_grad():
            loss = context.loss(network(inputs), targets)
        rows = [len(given) for given, _ in calls]
        if rows != [len(inputs)]:
            raise ValueError(
                f"obd: the layer of {context.name!r} must be called once in a forward pass, with a row for "
                f"each of the {len(inputs)} samples; got calls with {rows} rows"
            )
        with torch.enable_grad():
            total.add_(_second_derivatives(layer, loss, *calls[0]), alpha=share)
    return total.reshape(weight.shape)


def _second_derivatives(layer: nn.Module, loss: Tensor, given: Tensor, probe: Tensor) -> Tensor:
    """(out, features): the second derivatives of a batch's loss; `probe` is what was added to the output."""
    inputs = unfolded(layer, given)
    (slope,) = torch.autograd.grad(loss, probe, create_graph=True, materialize_grads=True)
    slopes = _by_position(layer, slope)
    outs, positions = slopes.shape[1:]
    found = inputs.new_zeros(outs, inputs.shape[2])
    if not slope.requires_grad:  # The loss is linear from here on.
        return found
    for out in range(outs):
        features = inputs[:, out * inputs.shape[1] // outs]
        for position in range(positions):
            (row,) = torch.autograd.grad(slopes[:, out, position].sum(), probe, retain_graph=True)
            beside = features @ _by_position(layer, row)[:, out].unsqueeze(2)
            found[out] += (features[:, :, position] * beside.squeeze(2)).sum(0)
    return found


def _by_position(layer: nn.Module, outputs: Tensor) -> Tensor:
    """(samples, out, positions) of a layer's outputs, as `unfolded` has its inputs."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return outputs.flatten(2)
    return outputs.reshape(len(outputs), -1, outputs.shape[-1]).transpose(1, 2)
