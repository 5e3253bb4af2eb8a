"""Each criterion through prune_: scored on the network, and again on the masked one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekern.masks import masks_of
from sparsekern.prune import CRITERIA, Context, prune_


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_network_is_pruned_twice_and_its_training_is_not_disturbed(criterion: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10, bias=False)
    )
    batches = [(torch.randn(6, 2, 4, 4), torch.randint(10, (6,))) for _ in range(2)]
    learned = {f"{at}.weight": torch.randn(model[at].weight.shape) for at in (0, 4)}
    context = Context(torch.Generator().manual_seed(0), None, batches, learned=learned)
    nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    slope, statistics = model[0].weight.grad.clone(), model[1].running_var.clone()
    before = None
    for sparsity in (0.5, 0.75):
        # No BatchNorm follows the output layer.
        ignore = ["4"] if criterion == "batchnorm" else []
        masks = {
            name: mask.clone()
            for name, mask in prune_(model, sparsity, criterion, ignore=ignore, context=context).items()
        }
        assert all(int(mask.sum()) == (1 - sparsity) * mask.numel() for mask in masks.values())
        assert before is None or not any(bool((masks[name] & ~before[name]).any()) for name in masks)
        before = masks
    assert all(torch.equal(masks_of(model)[name], mask) for name, mask in masks.items())
    assert torch.equal(model[0].parametrizations.weight.original.grad, slope)
    assert model.training and torch.equal(model[1].running_var, statistics) and context.cache == {}


def test_only_learned_and_signed_scores_are_negative() -> None:
    """A list to be kept with the docstring of the criteria."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    batch = (torch.randn(5, 6, generator=generator), torch.randint(4, (5,), generator=generator))
    learned = {"0.weight": torch.randn(8, 6, generator=generator)}
    context = Context(generator, model, [batch], learned=learned).of("0.weight")
    negative = {name for name, score in CRITERIA.items() if bool((score(model[0].weight, context) < 0).any())}
    assert negative == {"grasp", "obd", "movement"}
