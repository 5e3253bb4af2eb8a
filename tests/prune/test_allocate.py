"""Allocations against formulas solved another way: bisection, and counts in whole numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsekern.prune import ALLOCATIONS, NM, prune_
from sparsekern.prune.allocate import share_out
from sparsekern.prune.units import units_of, whole


def test_ties_in_counts_are_decided_exactly() -> None:
    for alive in range(1, 400):
        for percent in range(1, 100):
            drop = max(0, -((50 - alive * percent) // 100))  # ceil(alive * percent / 100 - 1 / 2)
            assert whole(alive * (1 - percent / 100)) == alive - drop


# ---- Erdős and Rényi


def densities(shapes: list[tuple[int, ...]], density: float, kernel: bool) -> list[float]:
    """min(1, ε · sum of sides / their product) with the ε that gives `density` in all, by bisection."""
    sides = [shape if kernel else shape[:2] for shape in shapes]
    raw = [sum(each) / math.prod(each) for each in sides]
    sizes = [math.prod(shape) for shape in shapes]
    low, high = 0.0, 1 / min(raw)
    for _ in range(200):
        middle = (low + high) / 2
        total = sum(size * min(1.0, middle * each) for size, each in zip(sizes, raw, strict=True))
        low, high = (middle, high) if total < density * sum(sizes) else (low, middle)
    return [min(1.0, low * each) for each in raw]


sides = st.integers(1, 40)
layers = st.lists(
    st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, st.integers(1, 5), st.integers(1, 5))),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(layers, st.floats(0.05, 1), st.booleans())
def test_erdos_renyi_is_the_formula_and_its_total_is_exact(
    shapes: list[tuple[int, ...]], density: float, kernel: bool
) -> None:
    units = {str(i): units_of(torch.rand(shape), (1, 1)) for i, shape in enumerate(shapes)}
    wanted = {name: layer.wanted(density) for name, layer in units.items()}
    name = "erdos-renyi-kernel" if kernel else "erdos-renyi"
    expected = densities(shapes, whole(sum(wanted.values())) / sum(map(math.prod, shapes)), kernel)
    try:
        kept = ALLOCATIONS[name](units, wanted)
    except ValueError as refusal:
        assert "none of its" in str(refusal)
        assert any(share * math.prod(shape) < 1 for share, shape in zip(expected, shapes, strict=True))
        return
    assert sum(kept.values()) == whole(sum(wanted.values()))
    for count, share, shape in zip(kept.values(), expected, shapes, strict=True):
        assert abs(count - share * math.prod(shape)) < 1 + 1e-6


def test_small_layers_stay_dense_and_the_kernel_counts() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Linear(256, 128), nn.Linear(128, 10))
    shapes = [tuple(layer.weight.shape) for layer in model]
    found = {}
    for scope in ("erdos-renyi", "erdos-renyi-kernel"):
        masks = prune_(copy.deepcopy(model), 0.9, "random", scope=scope)
        found[scope] = [float(mask.double().mean()) for mask in masks.values()]
        assert found[scope] == pytest.approx(densities(shapes, 0.1, scope.endswith("kernel")), abs=6e-4)
    assert found["erdos-renyi"][0] == 1 and found["erdos-renyi-kernel"][0] < 1


def test_what_is_dead_already_makes_room_elsewhere() -> None:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    prune_(model, {"0.weight": 0.9, "1.weight": 0.0})
    masks = prune_(model, 0.5, scope="erdos-renyi")
    assert [int(mask.sum()) for mask in masks.values()] == [40, 360]


# ---- the others


def named(**scores: list[float]) -> dict[str, Tensor]:
    return {name: torch.tensor([values]) for name, values in scores.items()}


def allocated(scores: dict[str, Tensor], wanted: dict[str, float], pools: dict[str, int], scope: str) -> dict:
    units = {name: units_of(values, (1, 1)) for name, values in scores.items()}
    return share_out(units, wanted, pools, scope)


def test_one_threshold_holds_for_a_pool_and_not_for_another() -> None:
    scores = named(a=[1.0, 2, 3, 4], b=[10.0, 20, 30, 40], c=[0.1, 0.2, 0.3, 0.4])
    wanted = dict.fromkeys(scores, 2.0)
    assert allocated(scores, wanted, {"a": 0, "b": 0, "c": 1}, "global") == {"a": 0, "b": 4, "c": 2}
    assert allocated(scores, wanted, {"a": 0, "b": 0, "c": 0}, "global") == {"a": 2, "b": 4, "c": 0}
    assert allocated(scores, wanted, {"a": 0, "b": 0, "c": 0}, "layer") == {"a": 2, "b": 2, "c": 2}


def test_of_equal_scores_the_earlier_layer_keeps_its_own() -> None:
    scores = named(a=[1.0, 1], b=[1.0, 1])
    assert allocated(scores, {"a": 1.0, "b": 2.0}, {"a": 0, "b": 0}, "global") == {"a": 2, "b": 1}


def test_targets_are_counted_in_elements() -> None:
    # Blocks of 3, 3 and 1 rows, the last ragged.
    scores = torch.tensor([[4.0], [4], [4], [1], [1], [1], [3]])
    units = {"w": units_of(scores, (3, 1))}
    assert units["w"].sizes.tolist() == [3, 1, 3]
    kept = [share_out(units, {"w": float(count)}, {"w": 0}, "layer")["w"] for count in range(2, 8)]
    assert kept == [1, 1, 2, 2, 3, 3]
    even = {"w": units_of(torch.rand(4, 1), (2, 1))}  # Of two cuts equally near, the one that keeps more.
    assert [share_out(even, {"w": count}, {"w": 0}, "layer")["w"] for count in (1.0, 3.0)] == [1, 2]
    with pytest.raises(
        ValueError, match=r"layer w: dropping 0.8571 of what is alive leaves none of its 3 units"
    ):
        share_out(units, {"w": 1.0}, {"w": 0}, "layer")


def test_what_cannot_be_shared_out_is_refused_in_words() -> None:
    units = {"w": units_of(torch.rand(4, 4), NM(2, 4))}
    for scope in ("global", "erdos-renyi", "erdos-renyi-kernel"):
        with pytest.raises(ValueError, match=rf"N:M, which fixes the density of \['w'\], got '{scope}'"):
            share_out(units, {"w": 8.0}, {"w": 0}, scope)
    dead = {"w": units_of(torch.rand(2, 2), (1, 1), torch.zeros(2, 2, dtype=torch.bool))}
    with pytest.raises(
        ValueError, match="layer w: a layer with anything alive is expected, got an empty mask"
    ):
        share_out(dead, {"w": 0.0}, {"w": 0}, "layer")
    assert share_out(dead, {"w": 0.0}, {"w": 0}, "global") == {"w": 0}
