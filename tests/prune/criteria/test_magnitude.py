"""Magnitudes make the masks of torch.nn.utils.prune; random ones are the generator's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from sparsekern.prune import next_masks
from sparsekern.prune.criteria import CRITERIA, Context

SHAPES = [(12, 20), (8, 6, 3, 3)]


def mask(weight: Tensor, amount: float, criterion: str, block: tuple[int, int] = (1, 1)) -> Tensor:
    alive = torch.ones_like(weight, dtype=torch.bool)
    return next_masks({"w": weight}, {"w": alive}, {"w": amount}, block, criterion)["w"]


def theirs(weight: Tensor, prune: object, **arguments: object) -> Tensor:
    layer = nn.Module()
    layer.weight = nn.Parameter(weight.clone())
    prune(layer, "weight", **arguments)
    return layer.weight_mask.bool()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("amount", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("criterion", ["magnitude", "magnitude-l2"])
def test_masks_of_single_weights_are_those_of_l1_unstructured(
    shape: tuple[int, ...], amount: float, criterion: str
) -> None:
    weight = torch.randn(shape)
    expected = theirs(weight, torch_prune.l1_unstructured, amount=amount)
    assert torch.equal(mask(weight, amount, criterion), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("criterion", "n"), [("magnitude", 1), ("magnitude-l2", 2)])
def test_masks_of_outputs_are_those_of_ln_structured(shape: tuple[int, ...], criterion: str, n: int) -> None:
    weight = torch.randn(shape)
    row = weight[0].numel()
    expected = theirs(weight, torch_prune.ln_structured, amount=0.5, n=n, dim=0)
    assert torch.equal(mask(weight, 0.5, criterion, (1, row)), expected)


def test_one_and_two_norms_disagree_on_outputs() -> None:
    weight = torch.tensor([[3.0, 0.0, 0.0], [1.5, 1.5, 1.5]])
    assert mask(weight, 0.5, "magnitude", (1, 3)).any(1).tolist() == [False, True]
    assert mask(weight, 0.5, "magnitude-l2", (1, 3)).any(1).tolist() == [True, False]


def test_scores_of_half_precision_are_float32() -> None:
    weight = torch.tensor([[-300.0, 1e-3]], dtype=torch.float16)
    assert CRITERIA["magnitude-l2"](weight, Context()).tolist()[0] == pytest.approx([9e4, 1e-6], rel=1e-3)


def test_random_scores_follow_their_generator_and_ignore_the_weight() -> None:
    def scores(weight: Tensor, seed: int) -> Tensor:
        return CRITERIA["random"](weight, Context(torch.Generator().manual_seed(seed)))

    assert torch.equal(scores(torch.zeros(5, 4), 1), scores(torch.randn(5, 4), 1))
    assert not torch.equal(scores(torch.zeros(5, 4), 1), scores(torch.zeros(5, 4), 2))
