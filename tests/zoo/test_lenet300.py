"""LeNet-300-100 as the paper has it."""

from __future__ import annotations

import pytest
import torch

from sparsekern import zoo
from sparsekern.masks import maskable


def lenet(seed: int) -> torch.nn.Module:
    return zoo.model("lenet300", torch.Generator().manual_seed(seed))


def test_266200_weights_in_three_layers() -> None:
    layers = maskable(lenet(0))
    assert {name: tuple(layer.weight.shape) for name, layer in layers.items()} == {
        "fc1": (300, 784),
        "fc2": (100, 300),
        "fc3": (10, 100),
    }
    assert sum(layer.weight.numel() for layer in layers.values()) == 266_200


def test_gaussian_glorot_initialisation_and_zero_biases() -> None:
    for layer in maskable(lenet(0)).values():
        weight = layer.weight.detach()
        outputs, inputs = weight.shape
        assert float(weight.std()) == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.06)
        # A Gaussian, not a uniform draw: 4.6 % lie beyond two standard deviations.
        assert float((weight.abs() > 2 * weight.std()).float().mean()) == pytest.approx(0.0455, abs=0.02)
        assert bool((layer.bias == 0).all())


def test_the_generator_decides_everything_and_no_other_is_touched() -> None:
    state = torch.get_rng_state()
    first, again, other = lenet(1), lenet(1), lenet(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.fc1.weight, again.fc1.weight)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)


def test_images_and_rows_give_the_same_logits_as_the_plain_formula() -> None:
    model = lenet(0)
    x = torch.randn(3, 1, 28, 28)
    hidden = x.reshape(3, 784)
    for layer in (model.fc1, model.fc2):
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ model.fc3.weight.T + model.fc3.bias)
    assert torch.equal(model(x), model(x.reshape(3, 784)))


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'lenet5': expected one of \['lenet300', 'conv2',"):
        zoo.model("lenet5")
