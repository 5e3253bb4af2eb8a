"""prune_ and next_masks: the paper's ladder, exact sparsity, both scopes, errors that name what came."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from sparsekern.masks import masks_of, pool, sparsity
from sparsekern.prune import CRITERIA, Context, Geometric, next_masks, output_rates, prune_

LENET_300 = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}


def lenet_weights() -> dict[str, Tensor]:
    return {name: torch.randn(shape) for name, shape in LENET_300.items()}


def full(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def left(masks: dict[str, Tensor]) -> float:
    """Percent of the weights alive."""
    return (
        100 * sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    )


@pytest.mark.parametrize("block", [(1, 1), (16, 1)])
def test_the_ladder_of_lenet_300_100(block: tuple[int, int]) -> None:
    """Frankle & Carbin 2019, arXiv 1803.03635: the percentages of figures 3 to 5, from rates of 20 % and 10
    %."""
    expected = {1: 80.04, 3: 51.28, 7: 21.07, 9: 13.52, 15: 3.58, 16: 2.87}
    # Blocks of 16 in rows of 300 and 100 outputs leave room for half a block per layer and round.
    tolerance = 0.01 if block == (1, 1) else 0.03
    weights = lenet_weights()
    masks = full(weights)
    rates = output_rates(list(weights), 0.2, 0.1)
    for index in range(1, 17):
        before = masks
        masks = next_masks(weights, before, rates, block=block)
        assert all(not bool((masks[name] & ~before[name]).any()) for name in masks)
        if index in expected:
            assert left(masks) == pytest.approx(expected[index], abs=tolerance)


def test_each_round_drops_the_smallest_survivors_exactly() -> None:
    weights = {"fc": torch.arange(1.0, 21).reshape(4, 5) * torch.tensor([1, -1, 1, -1, 1])}
    masks = next_masks(weights, full(weights), {"fc": 0.2})
    assert torch.equal(masks["fc"], weights["fc"].abs() > 4)
    masks = next_masks(weights, masks, {"fc": 0.25})
    assert torch.equal(masks["fc"], weights["fc"].abs() > 8)


@pytest.mark.parametrize(
    ("rate", "alive", "keep"),
    [(0.2, 10, 8), (0.2, 11, 9), (0.5, 1, 1), (0.5, 3, 2), (0.1, 5, 5), (0.9, 5, 1)],
)
def test_one_geometric_round_keeps_the_nearest_whole_number(rate: float, alive: int, keep: int) -> None:
    assert Geometric(rate).keep(alive) == keep
    assert math.isclose(Geometric(rate).left(3), (1 - rate) * (1 - rate) * (1 - rate))


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_prune_reaches_the_sparsity_to_the_element(scope: str, criterion: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 50), nn.Linear(50, 4))
    for target in (0.25, 0.9, 0.5):  # The last is behind us already: masks only shrink.
        masks = prune_(model, target, criterion=criterion, scope=scope)
        reached = max(target, 0.9 if target == 0.5 else 0)
        total = sum(mask.numel() for mask in masks.values())
        if scope == "global":
            assert sum(int(mask.sum()) for mask in masks.values()) == round(total * (1 - reached))
        else:
            assert all(abs(int(mask.sum()) - mask.numel() * (1 - reached)) <= 0.5 for mask in masks.values())
    assert list(masks) == ["0.weight", "3.weight", "4.weight"]
    assert all(torch.equal(masks_of(model)[name], mask) for name, mask in masks.items())
    assert sparsity(model) == pytest.approx(0.9, abs=0.002)


def test_global_scope_has_one_threshold_and_layer_scope_has_one_each() -> None:
    def model() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        with torch.no_grad():
            net[0].weight.copy_(torch.arange(1.0, 17).reshape(4, 4))
            net[1].weight.copy_(torch.arange(101.0, 117).reshape(4, 4))
        return net

    whole = prune_(model(), 0.5, scope="global")
    assert [int(mask.sum()) for mask in whole.values()] == [0, 16]
    each = prune_(model(), 0.5, scope="layer")
    assert [int(mask.sum()) for mask in each.values()] == [8, 8]
    assert torch.equal(each["0.weight"].flatten(), torch.arange(16) >= 8)


def test_global_layers_compete_only_with_layers_of_their_rate() -> None:
    weights = {"a": torch.full((2, 5), 1.0), "b": torch.full((2, 5), 2.0), "out": torch.full((2, 5), 0.1)}
    masks = next_masks(weights, full(weights), {"a": 0.2, "b": 0.2, "out": 0.0}, scope="global")
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"a": 6, "b": 10, "out": 10}


def test_blocks_are_pruned_whole_with_ragged_edges_counted_in_elements() -> None:
    model = nn.Sequential(nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10))
    masks = prune_(model, 0.9, block=(16, 1))
    for mask in masks.values():
        high = min(16, mask.shape[0])
        sizes = pool(torch.ones_like(mask), (high, 1))
        alive = pool(mask, (high, 1))
        assert bool(((alive == 0) | (alive == sizes)).all())
        assert abs(int(mask.sum()) - 0.1 * mask.numel()) <= high / 2


def test_random_pruning_follows_its_generator() -> None:
    def masks(seed: int) -> Tensor:
        model = nn.Linear(20, 20)
        return prune_(model, 0.5, "random", generator=torch.Generator().manual_seed(seed))["weight"]

    assert torch.equal(masks(1), masks(1)) and not torch.equal(masks(1), masks(2))


def test_ignored_layers_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    assert list(prune_(model, 0.5, ignore=["1"])) == ["0.weight"]
    assert type(model[1]) is nn.Linear


def test_scores_are_float32_and_not_negative() -> None:
    weight = torch.randn(6, 4).to(torch.bfloat16)
    for score in CRITERIA.values():
        scores = score(weight, Context(torch.Generator().manual_seed(0)))
        assert scores.dtype == torch.float32 and scores.shape == weight.shape and bool((scores >= 0).all())
    assert torch.equal(CRITERIA["magnitude"](weight, Context()), weight.abs().float())


def test_bad_input_is_named_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    refusals = [
        (r"unknown criterion 'size'.*\['magnitude', 'random'\]", {"criterion": "size"}),
        (r"unknown scope 'all'.*\['global', 'layer'\]", {"scope": "all"}),
        (r"sparsity must be in \[0, 1\), got 1.0", {"sparsity": 1.0}),
        ("sparsity must be in .* got nan", {"sparsity": float("nan")}),
        ("two positive ints", {"block": (0, 1)}),
        (r"layer 0.weight: .* none of its 4 blocks", {"block": (2, 8)}),
        (r"unknown layers \['fc'\], expected some of \['0', '1'\]", {"ignore": ["fc"]}),
        ("no nn.Linear or nn.Conv2d to prune", {"ignore": ["0", "1"]}),
    ]
    for message, arguments in refusals:
        with pytest.raises(ValueError, match=message):
            prune_(model, **arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layer 1\.weight: magnitude scores must be numbers, got NaN"):
        prune_(model)
    assert masks_of(model) == {}
    with pytest.raises(ValueError, match="the same names"):
        next_masks({"a": torch.ones(2, 2)}, {}, {"a": 0.2})
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got 1.5"):
        next_masks({"a": torch.ones(2, 2)}, {"a": torch.ones(2, 2) > 0}, {"a": 1.5})


def test_ties_in_counts_are_decided_exactly() -> None:
    for alive in range(1, 400):
        for percent in range(1, 100):
            drop = max(0, -((50 - alive * percent) // 100))  # ceil(alive * percent / 100 - 1 / 2)
            assert Geometric(percent / 100).keep(alive) == alive - drop


def test_a_model_that_cannot_be_masked_whole_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    l1_unstructured(model[2], "weight", 0.5)  # type: ignore[no-untyped-call]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"layer 2.weight: Linear.weight must be a Parameter.*from_torch_prune_.*restore_"
    ):
        prune_(model, 0.5)
    after = model.state_dict()
    assert masks_of(model) == {} and after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
