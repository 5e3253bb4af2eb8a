"""The dense network's state dict, of whatever a network is made of."""

from __future__ import annotations

import torch
from torch import nn

import sparsekern as sk
from sparsekern.masks import mask_


def network() -> nn.Sequential:
    head = (nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 4))
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), *head)


def test_a_fresh_network_loads_it_and_computes_the_same() -> None:
    """Of layers that were swapped, with and without zeros inside blocks, and of one that is only masked."""
    model, x = network().eval(), torch.randn(2, 3, 4, 4)
    sk.prune.prune_(model, sparsity=0.9, block=(1, 1))
    masked = model[4]
    report = sk.swap_(model, threshold=0.5, block=(4, 1), filter_fn=lambda layer, _: layer is not masked)
    assert len(report.swapped) == 2 and any(layer.kept is not None for layer in (model[0], model[3]))
    for layer in (model[0], model[3]):
        layer.values.data.add_(1.0)  # where nothing is alive too: no product sees that
    state = sk.nn.dense_state(model)
    assert all(type(value) is torch.Tensor for value in state.values())
    other = network().eval()
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), model(x), rtol=1e-5, atol=1e-5)
    for name, layer in (("0", model[0]), ("3", model[3])):
        assert torch.equal(state[f"{name}.weight"] != 0, layer.mask)
    state["0.bias"].fill_(7)
    assert not (model[0].bias == 7).any()


def test_it_is_the_state_dict_of_a_network_without_masks() -> None:
    model = network()
    mask_(model[3], torch.rand(16, 64) > 0.5)
    assert sk.nn.dense_state(model).keys() == network().state_dict().keys()
