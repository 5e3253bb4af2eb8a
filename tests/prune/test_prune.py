"""prune_ and next_masks: exact sparsity, scopes, kinds of layers, data, errors that name what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from sparsekern.masks import masks_of, pool, sparsity
from sparsekern.prune import CRITERIA, NM, Context, by_layer, next_masks, prune_


def full(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def test_each_round_drops_the_smallest_survivors_exactly() -> None:
    weights = {"fc": torch.arange(1.0, 21).reshape(4, 5) * torch.tensor([1, -1, 1, -1, 1])}
    masks = next_masks(weights, full(weights), {"fc": 0.2})
    assert torch.equal(masks["fc"], weights["fc"].abs() > 4)
    masks = next_masks(weights, masks, {"fc": 0.25})
    assert torch.equal(masks["fc"], weights["fc"].abs() > 8)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
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
        return prune_(model, 0.5, "random", context=Context(torch.Generator().manual_seed(seed)))["weight"]

    assert torch.equal(masks(1), masks(1)) and not torch.equal(masks(1), masks(2))


def test_ignored_layers_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    assert list(prune_(model, 0.5, ignore=["1"])) == ["0.weight"]
    assert type(model[1]) is nn.Linear


def by_kinds() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 50), nn.Linear(50, 10)
    )


def test_kinds_of_layers_and_the_output_have_rates_of_their_own() -> None:
    masks = prune_(by_kinds(), {nn.Conv2d: 0.5, nn.Linear: 0.9, "output": 0.8, "1.weight": 0.25})
    sparsity_of = {name: 1 - float(mask.double().mean()) for name, mask in masks.items()}
    assert sparsity_of == pytest.approx({"0.weight": 0.5, "1.weight": 0.25, "3.weight": 0.9, "4.weight": 0.8})


def test_kinds_of_layers_have_structures_of_their_own() -> None:
    masks = prune_(by_kinds(), 0.5, block={nn.Conv2d: "kernels", nn.Linear: (1, 1), "3.weight": NM(2, 4)})
    for name in ("0.weight", "1.weight"):
        alive = masks[name].sum(dim=(2, 3))
        assert bool(((alive == 0) | (alive == 9)).all()) and int((alive > 0).sum()) == alive.numel() // 2
    assert bool((masks["3.weight"].reshape(-1, 4).sum(dim=1) == 2).all())
    assert int(masks["4.weight"].sum()) == 250
    assert bool((masks["4.weight"].reshape(-1, 4).sum(dim=1) != 2).any())


def test_layers_of_different_sparsity_do_not_compete() -> None:
    model = by_kinds()
    with torch.no_grad():
        model[0].weight.mul_(100)
        model[3].weight.mul_(1e-3)
    masks = prune_(model, {nn.Conv2d: 0.5, nn.Linear: 0.2}, scope="global")
    convs, linears = [masks["0.weight"], masks["1.weight"]], [masks["3.weight"], masks["4.weight"]]
    assert sum(int(mask.sum()) for mask in convs) == (216 + 576) // 2
    assert sum(int(mask.sum()) for mask in linears) == round(0.8 * 2100)
    assert bool(masks["0.weight"].all()) and bool(masks["4.weight"].all())


def test_pools_stay_apart_when_equally_much_is_left_to_drop() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    with torch.no_grad():
        model[1].weight.mul_(100)
    prune_(model, {"0.weight": 0.0, "1.weight": 0.5})
    # Half of what is alive, twice.
    masks = prune_(model, {"0.weight": 0.5, "1.weight": 0.75}, scope="global")
    assert [int(mask.sum()) for mask in masks.values()] == [50, 25]


def test_by_layer_finds_the_closest_key_and_complains_of_none() -> None:
    model = by_kinds()
    assert by_layer(model, 0.5, ignore=["1"]) == {"0.weight": 0.5, "3.weight": 0.5, "4.weight": 0.5}
    assert by_layer(model, {nn.Module: 1, nn.Linear: 2, "output": 3, "1.weight": 4}) == {
        "0.weight": 1,
        "1.weight": 4,
        "3.weight": 1,
        "4.weight": 3,
    }
    # An output layer that is left alone hands its rate to nobody.
    assert by_layer(model, {nn.Module: 1, "output": 3}, ignore=["4"])["3.weight"] == 1
    assert by_layer(nn.Linear(2, 2), {"weight": 7}) == {"weight": 7}
    with pytest.raises(ValueError, match=r"layer 3.weight: a value for its name, .*got \[.*Conv2d"):
        by_layer(model, {nn.Conv2d: 1, "output": 2})
    with pytest.raises(ValueError, match=r"unknown layers \['3'\]: expected some of \['0.weight'"):
        by_layer(model, {nn.Module: 1, "3": 2})


def recording(seen: list[Context]) -> Callable[[Tensor, Context], Tensor]:
    def score(weight: Tensor, context: Context) -> Tensor:
        context.cache["calls"] = context.cache.get("calls", 0) + 1
        seen.append(context)
        return weight.abs()

    return score


def test_a_criterion_gets_the_model_its_name_and_a_fresh_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Context] = []
    monkeypatch.setitem(CRITERIA, "recording", recording(seen))
    model, other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(1, 1)
    mine = Context(batches=[(torch.ones(1, 4), torch.zeros(1))])
    prune_(model, 0.5, "recording", context=mine)
    prune_(model, 0.5, "recording", context=Context(model=other))
    assert [context.name for context in seen] == ["0.weight", "1.weight"] * 2
    assert [context.model for context in seen] == [model, model, other, other]
    assert seen[0].batches is mine.batches and mine.cache == {}
    assert [context.cache["calls"] for context in seen] == [2, 2, 2, 2]
    assert seen[0].cache is seen[1].cache and seen[1].cache is not seen[2].cache


def test_a_criterion_that_looks_at_data_prunes_with_data_and_asks_for_it_without() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"layer 0.weight: snip .*batch"):
        prune_(model, 0.5, "snip")
    assert masks_of(model) == {}
    batches = [(torch.randn(16, 4), torch.randint(3, (16,)))]
    batches[0][0][:, 1] = 0  # No gradient ever reaches the weights of this input.
    masks = prune_(model, 0.75, "snip", context=Context(batches=batches))
    assert int(masks["0.weight"].sum()) == 8 and not bool(masks["0.weight"][:, 1].any())


def test_bad_input_is_named_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    refusals: list[tuple[str, dict[str, Any]]] = [
        (r"unknown criterion 'size'.*'magnitude'.*'random'", {"criterion": "size"}),
        (
            r"unknown scope 'all'.*\['layer', 'global', 'erdos-renyi', 'erdos-renyi-kernel'\]",
            {"scope": "all"},
        ),
        (r"sparsity must be in \[0, 1\), got 1.0", {"sparsity": 1.0}),
        ("sparsity must be in .* got nan", {"sparsity": float("nan")}),
        ("two positive ints", {"block": (0, 1)}),
        (r"layer 0.weight: .* none of its 4 units", {"block": (2, 8)}),
        (r"unknown structure 'cubes'.*'filters'", {"block": "cubes"}),
        (r"got 16", {"block": 16}),
        (r"layer 0.weight: .*convolution is expected, got shape \(8, 8\)", {"block": "kernels"}),
        (r"sparsity must be in \[0, 1\), got -0.5", {"sparsity": {nn.Linear: 0.5, "output": -0.5}}),
        (r"unknown layers \['fc'\], expected some of \['0', '1'\]", {"ignore": ["fc"]}),
        ("no nn.Linear, nn.Conv1d or nn.Conv2d to prune", {"ignore": ["0", "1"]}),
    ]
    for message, arguments in refusals:
        with pytest.raises(ValueError, match=message):
            prune_(model, **arguments)
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layer 1\.weight: scores must be numbers, got 1 NaN of 16"):
        prune_(model)
    assert masks_of(model) == {}
    with pytest.raises(ValueError, match="the same names"):
        next_masks({"a": torch.ones(2, 2)}, {}, {"a": 0.2})
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got 1.5"):
        next_masks({"a": torch.ones(2, 2)}, {"a": torch.ones(2, 2) > 0}, {"a": 1.5})


@pytest.mark.parametrize(
    ("rate", "alive", "keep"),
    [(0.2, 10, 8), (0.2, 11, 9), (0.5, 1, 1), (0.5, 3, 2), (0.1, 5, 5), (0.9, 5, 1), (0.14, 25, 22)],
)
def test_one_round_keeps_the_nearest_whole_number(rate: float, alive: int, keep: int) -> None:
    weights = {"fc": torch.rand(1, alive)}
    assert int(next_masks(weights, full(weights), {"fc": rate})["fc"].sum()) == keep


def test_structures_by_name_are_for_all_names() -> None:
    weights = {"a": torch.rand(4, 4), "b": torch.rand(4, 4)}
    masks = next_masks(weights, full(weights), {"a": 0.5, "b": 0.5}, {"a": "filters", "b": "columns"})
    assert sorted(masks["a"].sum(dim=1).tolist()) == sorted(masks["b"].sum(dim=0).tolist()) == [0, 0, 4, 4]
    with pytest.raises(ValueError, match=r"the same names, got .*\['a'\]"):
        next_masks(weights, full(weights), {"a": 0.5, "b": 0.5}, {"a": "filters"})


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
