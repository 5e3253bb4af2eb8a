"""What a network of the zoo may be asked for: its width, its dropout, and to come from another library."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator

import pytest
import torch
import torchvision_operators
from torch import nn

from sparsekern import zoo
from sparsekern.masks import maskable
from sparsekern.zoo.layers import glorot, scaled


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_half_the_width_has_half_of_every_hidden_size(name: str) -> None:
    models = [zoo.model(name, draw(), width=width) for width in (1.0, 0.5)]
    whole, half = ([layer.weight.shape for layer in maskable(model).values()] for model in models)
    takes_images = hasattr(models[0], "image")
    for at, (wide, narrow) in enumerate(zip(whole, half, strict=True)):
        assert wide[0] == (1 if at == len(whole) - 1 else 2) * narrow[0]
        assert wide[1] == (1 if at == 0 and takes_images else 2) * narrow[1]
        assert wide[2:] == narrow[2:]


@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_narrow_network_maps_the_same_to_the_same(name: str) -> None:
    model = zoo.model(name, draw(), width=0.1).eval()
    x = zoo.example(model, 2, draw())
    with torch.inference_mode():
        assert model(x).shape[-1] == model.classes


@pytest.mark.parametrize("name", ["lenet300", "conv2"])
def test_width_one_draws_what_was_always_drawn(name: str) -> None:
    generator = draw(3)
    for layer in maskable(zoo.model(name, draw(3), width=1.0)).values():
        weight = torch.empty_like(layer.weight)
        glorot(weight, generator)
        assert torch.equal(weight, layer.weight)


@pytest.mark.parametrize("width", [0, -1.0, math.inf, math.nan])
def test_a_width_that_is_no_positive_factor_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="width must be a positive factor, got"):
        zoo.model("lenet300", width=width)
    assert scaled(10, 0.01) == 1


@pytest.mark.parametrize("name", ["conv2", "conv4", "conv6", "transformer", "alexnet"])
def test_dropout_changes_no_weight_and_no_name_and_ends_with_training(name: str) -> None:
    plain, model = (zoo.model(name, draw(), width=0.25, dropout=rate) for rate in (0.0, 0.5))
    assert list(plain.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    x = zoo.example(model, 1, draw())
    with torch.inference_mode():
        assert torch.equal(plain.eval()(x), model.eval()(x))
        assert not torch.equal(model.train()(x), model(x))
    rates = {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)}
    assert rates == {0.5}


def test_the_paper_s_dropout_is_behind_both_hidden_layers() -> None:
    model = zoo.model("conv2", draw(), dropout=0.5)
    kinds = [type(layer).__name__ for layer in model.classifier]
    assert kinds == ["Linear", "Sequential", "Linear", "Sequential", "Linear"]
    hidden = model.classifier[1](torch.ones(1000))
    assert set(hidden.tolist()) == {0.0, 2.0} and 400 < int((hidden == 0).sum()) < 600


def test_an_option_that_a_network_lacks_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"resnet20 has no option \['dropout'\]: expected some of \['width'\]"
    ):
        zoo.model("resnet20", dropout=0.5)
    with pytest.raises(ValueError, match=r"timm:resnet18 has no option \['width'\]: expected .*'classes'"):
        zoo.model("timm:resnet18", width=0.5)
    with pytest.raises(
        ValueError, match=r"unknown model 'keras:vgg16': .* or one of \['torchvision', 'timm'\]"
    ):
        zoo.model("keras:vgg16")


def test_every_option_is_told_by_name() -> None:
    for name, made in zoo.MODELS.items():
        options = [p for p in inspect.signature(made).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert {option.name for option in options} <= set(zoo.OPTIONS), name


# ---- torchvision and timm


@pytest.fixture
def libraries() -> Iterator[None]:
    torchvision_operators.declare()
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    yield


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("name", "millions"), [("torchvision:resnet18", 11.69), ("timm:mobilenetv3_small_050", 1.59)]
)
def test_a_network_of_a_library_comes_by_name(name: str, millions: float) -> None:
    state = torch.get_rng_state()
    first, again, other = (zoo.model(name, draw(seed)).eval() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.classes, first.image) == (1000, (3, 224, 224))
    assert round(sum(parameter.numel() for parameter in first.parameters()) / 1e6, 2) == millions
    pairs = list(zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    layer = next(iter(maskable(first)))
    assert not torch.equal(maskable(first)[layer].weight, maskable(other)[layer].weight)


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("torchvision:resnet18", (3, 64, 64)),
        pytest.param("torchvision:vit_b_16", (3, 32, 32), marks=pytest.mark.slow),
        ("timm:resnet18", (1, 64, 48)),
        ("timm:vit_tiny_patch16_224", (3, 32, 32)),
    ],
)
def test_classes_and_images_are_as_asked(name: str, image: tuple[int, int, int]) -> None:
    model = zoo.model(name, draw(), classes=7, image=image).eval()
    x = zoo.example(model, 2, draw())
    with torch.inference_mode():
        assert x.shape == (2, *image) and model(x).shape == (2, model.classes) == (2, 7)


@pytest.mark.usefixtures("libraries")
def test_what_a_library_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="torchvision has no classifier 'lenet'"):
        zoo.model("torchvision:lenet")
    with pytest.raises(ValueError, match="timm has no network 'hf-hub:timm/resnet18'"):
        zoo.model("timm:hf-hub:timm/resnet18")
    with pytest.raises(ValueError, match="images of 3 channels are expected"):
        zoo.model("torchvision:resnet18", image=(1, 64, 64))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_a_missing_library_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name.partition(":")[0], None)
    with pytest.raises(ValueError, match=r'pip install "sparsekern\[models\]"'):
        zoo.model(name)
