"""SynFlow: what flows through each layer is the same, so that no layer is emptied before its time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import mask_, maskable
from sparsekern.prune import next_masks
from sparsekern.prune.criteria import CRITERIA, Context
from sparsekern.zoo import vgg

LAYERS = 14


def shape_only(model: nn.Module, image: tuple[int, ...]) -> Context:
    return Context(model=model, batches=[(torch.empty(1, *image), torch.empty(1))])


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.weight": layer.weight.detach() for name, layer in maskable(model).items()}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """VGG-16 with a sixteenth of its channels: 57,884 weights in 14 layers."""
    monkeypatch.setattr(vgg, "WIDTHS", tuple(width // 16 for width in vgg.WIDTHS))
    return vgg.VGG16(torch.Generator().manual_seed(0))


def test_a_chain_by_hand() -> None:
    """R is a product of absolute matrices; a score is the sum of the paths that go through the weight."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    first, second = (layer.weight.detach().abs() for layer in (model[0], model[2]))
    total = (second @ first).sum()
    into, out = first.sum(1), second.sum(0)
    context = shape_only(model, (3,))
    scores = [CRITERIA["synflow"](model[at].weight, context.of(f"{at}.weight")).double() for at in (0, 2)]
    torch.testing.assert_close(scores[0], first * out[:, None] / total, rtol=1e-6, atol=0)
    torch.testing.assert_close(scores[1], second * into / total, rtol=1e-6, atol=0)


def test_the_same_flows_through_every_layer_of_vgg16() -> None:
    model = zoo.model("vgg16", torch.Generator().manual_seed(0))
    context = shape_only(model, (3, 32, 32))
    sums = [
        float(CRITERIA["synflow"](weight, context.of(name)).double().sum())
        for name, weight in weights_of(model).items()
    ]
    assert len(sums) == LAYERS
    assert sums == pytest.approx([1.0] * LAYERS, rel=1e-6)


def test_it_holds_for_a_trained_network_too(narrow: nn.Module) -> None:
    """Whose biases and BatchNorms are no longer those of a new one; and the network stays as it was."""
    with torch.no_grad():
        for module in narrow.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_()
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        narrow.classifier.bias.normal_()
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    context = shape_only(narrow, (3, 32, 32))
    for name, weight in weights_of(narrow).items():
        score = CRITERIA["synflow"](weight, context.of(name))
        assert float(score.double().sum()) == pytest.approx(1.0, rel=1e-6)
        assert bool((score >= 0).all())
    after = narrow.state_dict()
    assert narrow.training and all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.slow
def test_in_a_hundred_rounds_no_layer_is_emptied_until_hardly_a_weight_is_left_in_each(
    narrow: nn.Module,
) -> None:
    """18 weights for 14 layers; the paper's limit is one for each ("maximal critical compression")."""
    alive = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights_of(narrow).items()}
    for left in 57_884 * 10 ** torch.linspace(0, -3.5, 101)[1:]:
        rate = 1 - float(left) / sum(int(mask.sum()) for mask in alive.values())
        alive = next_masks(
            weights_of(narrow),
            alive,
            dict.fromkeys(alive, max(rate, 0.0)),
            criterion="synflow",
            scope="global",
            context=shape_only(narrow, (3, 32, 32)),
        )
        for name, layer in maskable(narrow).items():
            mask_(layer, alive[f"{name}.weight"])
    counts = [int(mask.sum()) for mask in alive.values()]
    assert sum(counts) == 18 and min(counts) == 1


@pytest.mark.parametrize(("criterion", "exponent"), [("magnitude", 2.75), ("synflow", 3.5)])
def test_in_one_shot_layers_are_emptied(narrow: nn.Module, criterion: str, exponent: float) -> None:
    weights = weights_of(narrow)
    alive = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    rates = dict.fromkeys(weights, 1 - 10**-exponent)
    masks = next_masks(weights, alive, rates, (1, 1), criterion, "global", shape_only(narrow, (3, 32, 32)))
    assert min(int(mask.sum()) for mask in masks.values()) == 0


def test_one_shot_magnitude_empties_layers_of_vgg16_long_before_its_limit() -> None:
    """With the paper's initialisation, from 10^2.75 to 10^3; 10^6 would leave a weight for each layer."""
    model, draw = zoo.model("vgg16"), torch.Generator().manual_seed(0)
    for layer in maskable(model).values():
        nn.init.kaiming_normal_(layer.weight, generator=draw)
    weights = weights_of(model)
    sizes = torch.cat([weight.flatten().abs() for weight in weights.values()])

    def least(exponent: float) -> int:
        """What is left in the layer that has the least."""
        limit = sizes.kthvalue(round(len(sizes) * (1 - 10**-exponent))).values
        return min(int((weight.abs() > limit).sum()) for weight in weights.values())

    assert 0 < least(2.75) < 20 and least(3) == 0


def test_a_network_that_is_cut_scores_zero() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    mask_(model[0], torch.zeros(4, 3, dtype=torch.bool))
    context = shape_only(model, (3,))
    assert not bool(CRITERIA["synflow"](model[2].weight, context.of("2.weight")).any())
