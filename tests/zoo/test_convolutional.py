"""The convolutional networks of the papers: exact sizes, initialisation, what they map to what."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import nn

from sparsekern import zoo
from sparsekern.masks import maskable

# weights in convolutions, weights in linear layers, all parameters
SIZES = {
    "conv2": (38_592, 4_262_400, 4_301_642),
    "conv4": (259_776, 2_165_248, 2_425_930),
    "conv6": (1_144_512, 1_116_672, 2_262_602),
    "resnet20": (270_256, 640, 272_474),
    "vgg16": (14_710_464, 5_120, 14_724_042),
    "vgg19": (20_018_880, 5_120, 20_035_018),
    "resnet18": (11_166_912, 512_000, 11_689_512),
    "alexnet": (2_468_544, 58_621_952, 61_100_840),
}


def network(name: str, seed: int = 0) -> nn.Module:
    return zoo.model(name, torch.Generator().manual_seed(seed))


def test_every_network_but_lenet_has_its_sizes_here() -> None:
    assert set(SIZES) == set(zoo.MODELS) - {"lenet300", "transformer"}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_that_are_known(name: str) -> None:
    model = network(name)
    layers = maskable(model).values()
    counts = [sum(layer.weight.numel() for layer in layers if isinstance(layer, kind)) for kind in KINDS]
    assert (*counts, sum(parameter.numel() for parameter in model.parameters())) == SIZES[name]
    # What the documentation of the class says.
    said = f"{type(model).__doc__}{__import__(type(model).__module__, fromlist=['_']).__doc__}"
    assert f"{sum(counts):,} weights" in said or f"{sum(counts):,} of them weights" in said


KINDS = (nn.Conv2d, nn.Linear)


def test_the_sizes_of_the_paper() -> None:
    """Frankle & Carbin, figure 2: 4.3M, 2.4M, (1.7M, see Conv6), 274K, 20.0M."""
    for name, millions in (("conv2", 4.3), ("conv4", 2.4), ("vgg19", 20.0)):
        assert round(sum(SIZES[name][:2]) / 1e6, 1) == millions
    kept = sum(buffer.numel() for buffer in network("resnet20").buffers() if buffer.is_floating_point())
    assert SIZES["resnet20"][2] + kept == 274_042


@pytest.mark.parametrize("name", ["conv4", "resnet20", "vgg16"])
def test_gaussian_glorot_initialisation(name: str) -> None:
    for layer in maskable(network(name)).values():
        weight = layer.weight.detach()
        reach = prod(weight.shape[2:])
        deviation = (2 / ((weight.shape[0] + weight.shape[1]) * reach)) ** 0.5
        if weight.numel() > 5000:
            assert float(weight.std()) == pytest.approx(deviation, rel=0.06)
            beyond = float((weight.abs() > 2 * deviation).float().mean())
            assert beyond == pytest.approx(0.0455, abs=0.02)  # a uniform draw has none
        assert layer.bias is None or bool((layer.bias == 0).all())


def test_the_initialisation_of_resnet18_keeps_the_variance_of_gradients() -> None:
    for name, layer in maskable(network("resnet18")).items():
        if isinstance(layer, nn.Conv2d):
            outputs = layer.out_channels * prod(layer.kernel_size)
            assert float(layer.weight.detach().std()) == pytest.approx((2 / outputs) ** 0.5, rel=0.06), name


@pytest.mark.parametrize("name", ["conv2", "resnet20", "vgg16"])
def test_the_generator_decides_everything_and_no_other_is_touched(name: str) -> None:
    state = torch.get_rng_state()
    first, again, other = network(name, 1), network(name, 1), network(name, 2)
    assert torch.equal(torch.get_rng_state(), state)
    for (key, tensor), same, differs in zip(
        first.state_dict().items(), again.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, same)
        assert not torch.equal(tensor, differs) or not key.endswith("weight") or tensor.dim() == 1


def test_the_names_are_those_of_torchvision() -> None:
    assert {"layer2.0.downsample.1.running_mean", "layer4.1.conv2.weight", "bn1.bias", "fc.weight"} <= set(
        network("resnet18").state_dict()
    )
    assert {"features.10.bias", "classifier.1.weight", "classifier.6.bias"} <= set(
        network("alexnet").state_dict()
    )
