"""Masks of torch.nn.utils.prune, checked by that module itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sparsekern.masks import from_torch_prune_, mask_, masks_of, to_torch_prune_, unmask_


def pruned() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.l1_unstructured(model[0], "weight", amount=0.5)  # A container of two methods.
    prune.random_unstructured(model[2], "weight", amount=7)
    prune.random_unstructured(model[2], "bias", amount=1)
    return model


def test_import_keeps_masks_outputs_and_hidden_values() -> None:
    model = pruned()
    x = torch.randn(2, 1, 4, 4)
    expected = model(x)
    original = model[2].weight_orig.detach().clone()
    wanted = {
        "0.weight": model[0].weight_mask,
        "2.weight": model[2].weight_mask,
        "2.bias": model[2].bias_mask,
    }
    wanted = {name: mask.bool() for name, mask in wanted.items()}
    masks = from_torch_prune_(model)
    assert not prune.is_pruned(model)
    assert masks.keys() == wanted.keys()
    assert all(torch.equal(masks[name], wanted[name]) for name in wanted)
    assert torch.equal(model(x), expected)
    unmask_(model, keep=False)
    assert torch.equal(model[2].weight, original)


def test_there_and_back_is_exact() -> None:
    model = pruned()
    x = torch.randn(2, 1, 4, 4)
    expected, state = model(x), {name: value.clone() for name, value in model.state_dict().items()}
    from_torch_prune_(model)
    to_torch_prune_(model)
    assert prune.is_pruned(model[0]) and prune.is_pruned(model[2]) and masks_of(model) == {}
    assert torch.equal(model(x), expected)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_export_is_what_custom_from_mask_makes() -> None:
    layer = nn.Linear(4, 2)
    mask = torch.tensor([[True, False, False, True], [False, True, True, False]])
    original = layer.weight.detach().clone()
    mask_(layer, mask)
    to_torch_prune_(layer)
    assert torch.equal(layer.weight_mask, mask.float())
    assert torch.equal(layer.weight_orig, original)
    prune.remove(layer, "weight")
    assert torch.equal(layer.weight, torch.where(mask, original, 0))


def test_a_mask_that_is_none_is_refused_before_anything_changes() -> None:
    model = pruned()
    model[2].weight_mask[0, 0] = 0.5
    with pytest.raises(ValueError, match=r"Linear\.weight_mask must hold 0 and 1 only"):
        from_torch_prune_(model)
    assert prune.is_pruned(model[0]) and masks_of(model) == {}
