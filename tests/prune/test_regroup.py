"""regroup_: unstructured tickets in blocks. Planted order is found again, figures are those of the masks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import expand, grid, mask_, masks_of, pool
from sparsekern.prune import prune_
from sparsekern.prune.permute import permutable, permute_, permuted
from sparsekern.prune.regroup import regroup_
from sparsekern.prune.regroup.cluster import Face, cluster


def kept(scores: Tensor, order: Tensor, height: int, density: float) -> float:
    """The share of scores in the best blocks of whole clusters, in float64 and apart from the package."""
    blocks = scores.double()[order].reshape(-1, height, scores.shape[1]).sum(1).flatten()
    return float(blocks.topk(round(density * blocks.numel())).values.sum() / scores.double().sum())


def exact(model: nn.Module, x: Tensor, before: Tensor) -> bool:
    with torch.no_grad():
        return bool((model(x) - before).abs().max() <= 1e-5 * before.abs().max())


# ---- clusters


@pytest.mark.parametrize("height", [2, 8, 16, 32])
def test_planted_clusters_are_found(height: int) -> None:
    blocks = torch.rand(256 // height, 96) < 0.1
    scores = blocks.repeat_interleave(height, 0)[torch.randperm(256)].float()
    order = cluster([Face(scores, float(blocks.float().mean()))], height)
    assert torch.equal(order.sort().values, torch.arange(256))
    assert kept(scores, order, height, float(blocks.float().mean())) == 1


@pytest.mark.parametrize(("height", "at_least"), [(8, 0.36), (16, 0.30), (32, 0.245)])
def test_chance_is_beaten_on_random_masks(height: int, at_least: float) -> None:
    scores = (torch.rand(512, 512) < 0.1).float()
    share = float(scores.mean())
    order = cluster([Face(scores, share)], height)
    assert (
        kept(scores, order, height, share) > at_least > 1.1 * kept(scores, torch.arange(512), height, share)
    )


def test_every_row_keeps_its_place_once_when_clusters_do_not_divide_them() -> None:
    scores = torch.rand(37, 11)
    order = cluster([Face(scores, 0.3)], 8)
    assert torch.equal(order.sort().values, torch.arange(37))
    assert set(order[32:].tolist()) == set(scores.sum(1).argsort()[:5].tolist())  # the lightest stand last
    for few, height in ((5, 8), (15, 8), (1, 4), (6, 1)):
        assert torch.equal(cluster([Face(torch.rand(few, 3), 0.5)], height), torch.arange(few))


def test_all_faces_count() -> None:
    """Two layers plant different orders of the same rows; the heavier one's is found."""
    one, other = (
        (torch.rand(8, 64) < 0.15).repeat_interleave(8, 0)[torch.randperm(64)].float() for _ in range(2)
    )
    share = (float(one.mean()), float(other.mean()))
    first = cluster([Face(one, share[0]), Face(other * 1e-3, share[1])], 8)
    last = cluster([Face(one * 1e-3, share[0]), Face(other, share[1])], 8)
    assert min(kept(one, first, 8, share[0]), kept(other, last, 8, share[1])) > 0.85
    assert max(kept(other, first, 8, share[1]), kept(one, last, 8, share[0])) < 0.6


def test_it_is_the_same_every_time_and_stands_zeros() -> None:
    scores = torch.rand(64, 20)
    orders = [cluster([Face(scores, 0.2)], 8) for _ in range(2)]
    assert torch.equal(*orders)
    assert torch.equal(cluster([Face(torch.zeros(64, 20), 0.2)], 8).sort().values, torch.arange(64))


# ---- networks


def planted(block: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    """An MLP whose two hidden layers are in blocks, up to an order of hidden units."""
    model = nn.Sequential(
        nn.Linear(80, 128), nn.ReLU(), nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 5)
    ).eval()
    for at in (0, 2):
        shape = model[at].weight.shape
        mask_(model[at], expand(torch.rand(grid(shape, block)) < 0.2, shape, block))
    x = torch.randn(3, 80)
    hidden = [group for group in permutable(model, x) if not group.fixed]
    permute_(model, {group: torch.randperm(group.size) for group in hidden})
    return model, x


@pytest.mark.parametrize(("block", "at_least"), [((8, 1), 1), ((16, 1), 1), ((8, 4), 1)])
def test_planted_blocks_are_found_and_outputs_stay(block: tuple[int, int], at_least: float) -> None:
    model, x = planted(block)
    with torch.no_grad():
        before = model(x)
    report = regroup_(model, block, x, refill=False)
    assert [layer.name for layer in report.layers] == ["0.weight", "2.weight"]
    assert all(layer.kept >= at_least > 0.7 > layer.kept_before for layer in report.layers)
    assert exact(model, x, before) or at_least < 1


def test_figures_are_those_of_the_masks() -> None:
    model = zoo.model("lenet300")
    prune_(model, 0.9, ignore=["fc3"])
    was = copy.deepcopy(model)
    report = regroup_(model, (16, 1), torch.randn(2, 784))
    assert [layer.name for layer in report.layers] == ["fc1.weight", "fc2.weight"]
    moved = permuted(was.state_dict(), report.order)
    for layer in report.layers:
        name = layer.name.removesuffix(".weight")
        mask = masks_of(model)[layer.name]
        behind = moved[f"{name}.parametrizations.weight.original"]
        alive = moved[f"{name}.parametrizations.weight.0.mask"]
        assert torch.equal(mask, expand(pool(mask, (16, 1)) > 0, mask.shape, (16, 1)))  # whole blocks
        ticket = behind.abs().double() * alive
        assert layer.kept == pytest.approx(float(ticket[mask].sum() / ticket.sum()))
        assert layer.kept > layer.kept_before > layer.ticket == pytest.approx(0.1, abs=1e-4)
        assert layer.density == float(mask.double().mean()) == pytest.approx(0.1, abs=0.002)
        # Refilled: what is alive has the value that stood behind the ticket's mask.
        weight = model.get_submodule(name).weight
        assert torch.equal(weight[mask], behind[mask]) and bool((mask & ~alive).any())
    assert report.layers[0].note == "columns stay: it is an input of the model"
    assert bool(masks_of(model).get("fc3.weight") is None)


def test_without_refill_nothing_new_lives() -> None:
    model = zoo.model("lenet300")
    prune_(model, 0.8)
    alive = {name: mask.clone() for name, mask in masks_of(model).items()}
    report = regroup_(model, (8, 1), torch.randn(2, 784), refill=False)
    moved = permuted(alive, report.order)
    assert all(not bool((mask & ~moved[name]).any()) for name, mask in masks_of(model).items())
    assert masks_of(model)["fc1.weight"].double().mean() < 0.1 < 0.199 < report.layers[0].density


def test_rewind_weights_follow() -> None:
    """A ticket's early weights, put in the ticket's new order, make the same early network."""
    early = zoo.model("lenet300").eval()
    model, x = copy.deepcopy(early), torch.randn(2, 784)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        before = early(x)
    prune_(model, 0.9)
    report = regroup_(model, (8, 1), x)
    assert len(report.order) == 2
    early.load_state_dict(permuted(early.state_dict(), report.order))
    assert exact(early, x, before)
    assert not torch.equal(early.fc1.weight, zoo.model("lenet300").fc1.weight)


def test_channels_of_convolutions_and_their_shortcuts_move() -> None:
    model = zoo.model("resnet20").eval()
    prune_(model, 0.8, ignore=["conv1", "fc"])
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = model(x)
    ticket = copy.deepcopy(model)
    blocks = {"layer3.1.conv1.weight": (8, 1), "layer3.1.conv2.weight": (8, 1)}
    report = regroup_(model, blocks, x, refill=False)
    assert [layer.name for layer in report.layers] == ["layer3.1.conv1.weight", "layer3.1.conv2.weight"]
    assert all(layer.kept > 1.05 * layer.kept_before for layer in report.layers)
    assert {group.name for group in report.order} == {"layer3.0.conv2.weight[0]", "layer3.1.conv1.weight[0]"}
    masks = permuted({name: mask.clone() for name, mask in masks_of(ticket).items()}, report.order)
    assert all(torch.equal(masks_of(model)[name], masks[name]) for name in masks.keys() - blocks.keys())
    for name in blocks:  # with the ticket's own masks it is the same network
        mask_(model.get_submodule(name.removesuffix(".weight")), masks[name])
    assert exact(model, x, before)


def test_sparsity_and_scope() -> None:
    model = zoo.model("lenet300")
    prune_(model, 0.9)
    x = torch.randn(2, 784)
    half = regroup_(copy.deepcopy(model), (4, 1), x, sparsity=0.5, permute=False)
    assert all(layer.density == pytest.approx(0.5, abs=0.01) for layer in half.layers)
    assert half.order == {} and half.layers[0].kept == half.layers[0].kept_before
    assert {layer.note for layer in half.layers} == {"nothing was moved: permute=False"}
    together = regroup_(model, (4, 1), None, scope="global", permute=False)
    sizes = {"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}
    alive = sum(layer.density * sizes[layer.name] for layer in together.layers)
    assert alive == pytest.approx(26_620, abs=4) and together.layers[2].density > 0.2


def test_what_cannot_be_traced_is_grouped_where_it_stands() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(x) if x.sum() > 0 else x
            return result

    model = Branches()
    prune_(model, 0.5)
    report = regroup_(model, (4, 1), torch.ones(1, 4))
    assert report.layers[0].note.startswith("nothing was moved: Branches cannot be traced")
    assert masks_of(model)["layer.weight"].sum() == 16
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "block", "ticket", "density", "kept", "before", "kept", "note"]
    assert lines[2].split()[:4] == ["layer.weight", "4x1", "50.0%", "50.0%"]


def test_wrong_arguments_are_refused_and_nothing_changes() -> None:
    model, x = zoo.model("lenet300"), torch.randn(1, 784)
    with pytest.raises(ValueError, match="LeNet300 has no masked weight"):
        regroup_(model, (8, 1), x)
    prune_(model, 0.99, ignore=["fc3"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for block, arguments, message in [
        ((8, 0), {}, r"two positive ints \(out, in\), got \(8, 0\)"),
        ({"fc3.weight": (8, 1)}, {}, r"no masked weight \['fc3.weight'\], expected some of \['fc1.weight', "),
        ((64, 64), {}, "layer fc2.weight: dropping"),
        ((8, 1), {"sparsity": -0.1}, r"sparsity must be in \[0, 1\), got -0.1"),
        ((8, 1), {"scope": "nowhere"}, "unknown scope 'nowhere'"),
        ((8, 1), {"example_inputs": None}, "needs example_inputs; got None"),
        ((8, 1), {"example_inputs": torch.randn(1, 3)}, "example_inputs do not run"),
    ]:
        with pytest.raises(ValueError, match=message):
            regroup_(model, block, **{"example_inputs": x, **arguments})
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
