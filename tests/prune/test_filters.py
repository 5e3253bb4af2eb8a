"""Filter pruning: the small network computes what the big one with zeroed channels does; sizes; refusals."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import mask_
from sparsekern.prune.filter_graph import remove_filters_in_graph_
from sparsekern.prune.filters import (
    channel_counts,
    choose_filters,
    find_chain,
    l1_norms,
    remove_filters_,
)

# Li et al. 2017: VGG-16-A, of 64, 64, 128, 128, 256 x 3 and 512 x 6 filters.
VGG_16_A = (32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256)


class Functional(nn.Module):
    """Calls functions and methods where others have modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, stride=2)
        self.bn = nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(45, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(m, 3, 16, 16) to (m, 4)."""
        x = nn.functional.max_pool2d(torch.relu(self.bn(self.conv1(x))), 2)
        x = torch.flatten(nn.functional.gelu(self.conv2(x)).relu(), 1)
        result: Tensor = self.fc2(nn.functional.relu(self.fc1(x))).softmax(1)
        return result


def nested() -> nn.Sequential:
    """Nested, with batch normalisations behind a convolution, a flatten and a linear layer."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.Conv2d(8, 7, 3), nn.LeakyReLU(), nn.Dropout(), nn.MaxPool2d(2, 2, 1)),
        nn.Flatten(),
        nn.BatchNorm1d(63),
        nn.Linear(63, 10),
        nn.BatchNorm1d(10, affine=False),
        nn.Tanh(),
        nn.Linear(10, 4),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "functional": (Functional, (3, 16, 16)),
    "nested": (nested, (3, 14, 14)),
    "conv4": (lambda: zoo.model("conv4"), (3, 32, 32)),
    "vgg16": (lambda: zoo.model("vgg16"), (3, 32, 32)),
    "lenet300": (lambda: zoo.model("lenet300"), (1, 28, 28)),
}


def ready(model: nn.Module) -> nn.Module:
    """In eval mode, with normalisations and biases that have something to say."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias)
    return model.eval()


@torch.no_grad()
def silenced(model: nn.Module, kept: dict[str, Tensor]) -> nn.Module:
    """The big network with zeros where a layer's input is a filter that goes: no look at chains or norms."""
    big = copy.deepcopy(model)
    layers = [name for name, module in big.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for name, following in pairwise(layers):
        if name in kept:
            count = len(big.get_submodule(name).weight)
            gone = [index for index in range(count) if index not in kept[name].tolist()]
            weight = big.get_submodule(following).weight
            weight.unflatten(1, (count, -1))[:, gone] = 0
    return big


@torch.no_grad()
def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_small_network_computes_what_the_silenced_big_one_does(name: str) -> None:
    make, image = NETWORKS[name]
    model = ready(make())
    every_but_the_last = [link.name for link in find_chain(model)]
    counts = {name: 1 + len(model.get_submodule(name).weight) // 2 for name in every_but_the_last}
    kept = choose_filters(model, counts, keep="random")
    x = torch.randn(3, *image)
    expected = silenced(model, kept)(x)
    assert not torch.allclose(expected, model(x), atol=1e-3)
    before = parameters(model)
    remove_filters_(model, kept)
    assert close(model(x), expected)
    assert parameters(model) < 0.6 * before
    assert {name: len(model.get_submodule(name).weight) for name in counts} == counts
    model.train()
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_zeroed_filter_is_a_removed_one() -> None:
    """Where activations keep zero at zero: filter, bias and the normalisation's own at zero say the same."""
    model = ready(zoo.model("vgg16"))
    masked = copy.deepcopy(model)
    kept = choose_filters(model, {"features.0": 20, "features.40": 300})
    with torch.no_grad():
        for conv in kept:
            path, _, index = conv.rpartition(".")
            gone = [
                at for at in range(len(masked.get_submodule(conv).weight)) if at not in kept[conv].tolist()
            ]
            for module in (masked.get_submodule(conv), masked.get_submodule(f"{path}.{int(index) + 1}")):
                module.weight[gone] = 0
                if module.bias is not None:
                    module.bias[gone] = 0
    remove_filters_(model, kept)
    x = torch.randn(4, 3, 32, 32)
    assert close(model(x), masked(x))
    assert model.features[1].num_features == 20 and model.features[1].running_mean.shape == (20,)


def test_vgg_16_a_loses_64_percent_of_the_parameters() -> None:
    """Li et al.: 1.5e7 to 5.4e6, -64.0 %. Their network has one more layer than the zoo's."""
    ours = zoo.model("vgg16")
    theirs = nn.Sequential(
        zoo.model("vgg16").features,
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )
    expected = {"ours": (14_724_042, 5_261_866, 64.3), "theirs": (14_987_722, 5_397_034, 64.0)}
    for name, model in (("ours", ours), ("theirs", theirs)):
        convs = [link.name for link in find_chain(model) if "features" in link.name or link.name[0] == "0"]
        before = parameters(model)
        remove_filters_(model, choose_filters(model, dict(zip(convs, VGG_16_A, strict=True))))
        after = parameters(model)
        assert (before, after, round(100 * (1 - after / before), 1)) == expected[name]


def test_alexnet_keeps_15_percent_of_its_channels() -> None:
    model = ready(zoo.model("alexnet"))
    before = parameters(model)
    counts = channel_counts(model, 0.15)
    assert list(counts.values()) == [10, 29, 58, 38, 38]
    first = model.features[0].weight.detach().clone()
    kept = choose_filters(model, counts)
    x = torch.randn(1, 3, 224, 224)
    expected = silenced(model, kept)(x)
    remove_filters_(model, kept)
    assert close(model(x), expected)
    shapes = [tuple(layer.weight.shape) for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert shapes == [(10, 3, 11, 11), (29, 10, 5, 5), (58, 29, 3, 3), (38, 58, 3, 3), (38, 38, 3, 3)]
    assert model.classifier[1].weight.shape == (4096, 38 * 36)
    assert torch.equal(model.features[0].weight, first[kept["features.0"]])
    norms = first.abs().double().sum((1, 2, 3))
    assert set(kept["features.0"].tolist()) == set(norms.topk(10).indices.tolist())
    assert (before, parameters(model)) == (61_100_840, 26_544_759)


def test_the_orders_on_a_weight_ranked_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
    rows = [[1.0, -2.0], [0.5, 0.5], [-3.0, 0.0], [0.0, -0.1], [1.0, 1.0]]
    model[0].weight.data = torch.tensor(rows)
    assert l1_norms(model[0].weight).tolist() == pytest.approx([3, 1, 3, 0.1, 2])
    assert choose_filters(model, {"0": 3})["0"].tolist() == [0, 2, 4]
    assert choose_filters(model, {"0": 1})["0"].tolist() == [0]  # Of equal ones the first.
    assert choose_filters(model, {"0": 2}, keep="small")["0"].tolist() == [1, 3]
    drawn = {
        tuple(choose_filters(model, {"0": 2}, "random", torch.Generator().manual_seed(seed))["0"].tolist())
        for seed in range(60)
    }
    assert len(drawn) == 10


class Twice(nn.Module):
    """One layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(m, 4) to (m, 4)."""
        result: Tensor = self.fc(self.fc(x))
        return result


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def masked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    mask_(model[1], torch.ones(4, 4, dtype=torch.bool))
    return model


class Branching(nn.Module):
    """Asks a tensor what to do."""

    def forward(self, x: Tensor) -> Tensor:
        """(m, 4) to (m, 4)."""
        return x if x.sum() > 0 else -x


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "residual": (lambda: zoo.model("resnet20"), r"is read by .*, not by one alone.*remove_filters_in_graph_"),
    "layer used twice": (Twice, r"layers \['fc'\] are used more than once"),
    "tied weights": (tied, "0 shares a parameter with another layer"),
    "mask": (masked, r"1\.weight must be a plain Parameter: call unmask_ first"),
    "groups": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2)),
        "1 has 2 groups of channels",
    ),
    "softmax": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 4)),
        r"_1 \(Softmax\) is not known to treat each channel alone",
    ),
    "flatten from 0": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.Flatten(0), nn.Linear(4, 4)),
        "flattens dimensions 0 to -1: 1 to -1 is expected",
    ),
    "no flatten": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.Linear(4, 4)),
        "1 reads the map of 0, which nothing flattens",
    ),
    "sizes": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(8, 4)),
        "1 reads 8 inputs, which do not fit the 4 of 0",
    ),
    "control flow": (
        lambda: nn.Sequential(nn.Linear(4, 4), Branching(), nn.Linear(4, 4)),
        r"Sequential cannot be traced \(.*remove_filters_in_graph_",
    ),
    "no layer": (lambda: nn.Sequential(nn.ReLU()), "Sequential calls no nn.Conv2d or nn.Linear"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_chain_is_refused_in_words(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        find_chain(make())


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"2": torch.tensor([0])}, r"layers \['2'\] have no filters to remove: expected some of \['0'\]"),
        ({"0": torch.tensor([1, 0])}, r"layer 0: ascending indices in 0 … 4 expected, got \[1, 0\]"),
        ({"0": torch.tensor([1, 1])}, "ascending"),
        ({"0": torch.tensor([3, 5])}, "ascending"),
        ({"0": torch.tensor([-1, 2])}, "ascending"),
        ({"0": torch.tensor([], dtype=torch.int64)}, "ascending"),
    ],
)
def test_wrong_filters_are_refused_and_nothing_is_changed(kept: dict[str, Tensor], message: str) -> None:
    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
    with pytest.raises(ValueError, match=message):
        remove_filters_(model, kept)
    assert model[0].weight.shape == (5, 2) and model[2].weight.shape == (1, 5)


def test_without_torch_pruning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ImportError, match=r'need Torch-Pruning: pip install "sparsekern\[prune\]"'):
        remove_filters_in_graph_(nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 1)), torch.ones(1, 2), 0.5)


def test_wrong_counts_and_orders_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
    with pytest.raises(ValueError, match="layer 0: 1 to 5 filters can be kept, got 6"):
        choose_filters(model, {"0": 6})
    with pytest.raises(ValueError, match="unknown order 'l2': expected one of"):
        choose_filters(model, {"0": 2}, keep="l2")
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got 0"):
        channel_counts(model, 0)
