"""RigL against loops: what is dropped, what grows, and that the number of connections stays."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from sparsekern.masks import mask_, masks_of, pool
from sparsekern.prune import (
    NM,
    FanIn,
    dense_gradients,
    prune_,
    rigl_step_,
    update_fraction,
)
from sparsekern.prune.structure import BlockLike


def sparse(sparsity: float = 0.75, block: BlockLike = (1, 1)) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 12))
    prune_(model, sparsity, block=block)
    return model


def values_of(model: nn.Module) -> dict[str, Tensor]:
    return {"0.weight": model[0].weight.detach().clone(), "3.weight": model[3].weight.detach().clone()}


def random_gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn(mask.shape) for name, mask in masks_of(model).items()}


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 1000))
def test_the_smallest_go_and_the_steepest_grow(fraction: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = sparse()
    before = {name: mask.clone() for name, mask in masks_of(model).items()}
    values, gradients = values_of(model), random_gradients(model)
    new = rigl_step_(model, gradients, fraction)
    for name, mask in masks_of(model).items():
        alive = before[name].flatten().nonzero().flatten().tolist()
        count = math.floor(round(fraction * len(alive), 6))
        weight, slope = values[name].flatten().abs(), gradients[name].flatten().abs()
        kept = sorted(alive, key=lambda i: -float(weight[i]))[: len(alive) - count]
        others = sorted(set(range(weight.numel())) - set(kept), key=lambda i: -float(slope[i]))
        assert sorted(mask.flatten().nonzero().flatten().tolist()) == sorted(kept + others[:count])
        assert int(mask.sum()) == len(alive)
        assert torch.equal(new[name], mask & ~before[name])
        now = values_of(model)[name]
        assert bool((now[new[name]] == 0).all()) and bool((now[~mask] == 0).all())
        assert torch.equal(now[mask & before[name]], values[name][mask & before[name]])


@pytest.mark.parametrize("block", [(4, 1), "kernels", "columns"])
def test_blocks_move_whole(block: BlockLike) -> None:
    model = sparse(0.75, {nn.Conv2d: block, nn.Linear: (3, 2)})
    before = {name: mask.clone() for name, mask in masks_of(model).items()}
    gradients = random_gradients(model)
    blocks = {nn.Conv2d: block, nn.Linear: (3, 2)}
    new = rigl_step_(model, gradients, 0.5, blocks)
    assert all(int(mask.sum()) == int(before[name].sum()) for name, mask in masks_of(model).items())
    now, then = (pool(mask["3.weight"], (3, 2)) for mask in (masks_of(model), before))
    assert set(now.flatten().tolist()) == {0, 6} and bool((now != then).any())
    assert all(bool(mask.any()) for mask in new.values()) or block == "columns"  # One column has no half.
    dead = pool(gradients["3.weight"].abs(), (3, 2))
    grown = (now > 0) & (then == 0)
    assert float(dead[grown].min()) > float(dead[(now == 0) & (then == 0)].max())


def test_constant_fan_in_stays_constant_and_n_of_m_stays_n_of_m() -> None:
    model = sparse(0.5, {nn.Conv2d: NM(2, 4), nn.Linear: FanIn()})
    new = rigl_step_(model, random_gradients(model), 0.5, {nn.Conv2d: NM(2, 4), nn.Linear: FanIn()})
    masks = masks_of(model)
    assert bool((masks["0.weight"].sum(dim=1) == 2).all()) and bool(
        (masks["3.weight"].sum(dim=1) == 16).all()
    )
    assert all(bool(mask.any()) for mask in new.values())


def test_gradients_are_those_of_the_sparse_network_for_all_its_weights() -> None:
    model = sparse().double()
    x, y = torch.randn(5, 4, 4, 4, dtype=torch.float64), torch.randint(12, (5,))

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(x), y)

    found = dense_gradients(model, loss)
    plain = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 12)).double()
    leaves = {name: value.requires_grad_() for name, value in values_of(model).items()}
    biases = {"0.bias": model[0].bias, "3.bias": model[3].bias}
    outputs = functional_call(plain, leaves | biases, (x,))
    expected = torch.autograd.grad(nn.functional.cross_entropy(outputs, y), list(leaves.values()))
    for (name, gradient), wanted in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted)
        assert bool((gradient[~masks_of(model)[name]] != 0).any())
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        assert dense_gradients(model, lambda: model[0](x).sum())["3.weight"].abs().sum() == 0
    with pytest.raises(ValueError, match="Linear has no masked weight: prune_ is expected first"):
        dense_gradients(nn.Linear(2, 2), lambda: torch.zeros(()))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_what_an_optimizer_remembers_of_new_connections_is_forgotten(kind: type) -> None:
    model = sparse()
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    new = rigl_step_(model, random_gradients(model), 0.5, optimizer=optimizer)
    for layer, name in ((model[0], "0.weight"), (model[3], "3.weight")):
        state = optimizer.state[layer.parametrizations.weight.original]
        remembered = [value for value in state.values() if value.shape == layer.weight.shape]
        assert len(remembered) == (1 if kind is torch.optim.SGD else 2)
        for value in remembered:
            assert bool((value[new[name]] == 0).all()) and bool((value[~new[name]] != 0).all())


def test_training_goes_on_with_what_grew() -> None:
    model = sparse(0.9)
    new = rigl_step_(model, random_gradients(model), 0.5)
    before = values_of(model)
    model(torch.randn(6, 4, 4, 4)).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    after = values_of(model)
    assert bool((after["3.weight"] != before["3.weight"])[new["3.weight"]].any())


def test_the_fraction_falls_along_a_cosine() -> None:
    assert update_fraction(0, 100) == pytest.approx(0.3)
    assert update_fraction(50, 100, 0.5) == pytest.approx(0.25)
    assert update_fraction(25, 100, 1.0) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert update_fraction(100, 100) == update_fraction(1000, 100) == 0
    for arguments in ((-1, 10), (1, 0), (1, 10, 1.5)):
        with pytest.raises(ValueError, match="0 <= step, 1 <= steps and initial in"):
            update_fraction(*arguments)


def test_bad_steps_are_refused_before_anything_changes() -> None:
    model = sparse()
    model.append(nn.Linear(12, 4))
    before = {name: mask.clone() for name, mask in masks_of(model).items()}
    good = random_gradients(model)
    unmasked = {**good, "4.weight": torch.ones(4, 12)}
    small, nan = ({**good, "3.weight": odd} for odd in (torch.ones(2, 2), torch.full((12, 32), math.nan)))
    refusals: list[tuple[str, dict[str, Tensor], float, BlockLike]] = [
        (r"fraction must be in \[0, 1\], got 1.5", good, 1.5, (1, 1)),
        (r"no masked weights \['4.weight'\]: expected some of", unmasked, 0.5, (1, 1)),
        (r"layer 3.weight: .* \(12, 32\) is expected, got \(2, 2\)", small, 0.5, (1, 1)),
        (r"layer 3.weight: scores must be numbers", nan, 0.5, (1, 1)),
        (r"layer 0.weight: the mask is not made of whole units of \(4, 1\)", good, 0.5, (4, 1)),
        (r"layer 0.weight: the mask is not made of whole units of FanIn", good, 0.5, FanIn()),
    ]
    for message, gradients, fraction, block in refusals:
        with pytest.raises(ValueError, match=message):
            rigl_step_(model, gradients, fraction, block)
    assert all(torch.equal(mask, before[name]) for name, mask in masks_of(model).items())
    layer = parametrizations.orthogonal(nn.Linear(4, 4))
    mask_(layer, torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="layer weight: a weight with a mask and no other parametrization"):
        rigl_step_(layer, {"weight": torch.ones(4, 4)}, 0.5)
