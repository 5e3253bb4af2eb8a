"""Network slimming: the scale of the BatchNorm that follows, wherever it stands in the code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsekern.prune.criteria import CRITERIA, Context


class OutOfOrder(nn.Module):
    """Registered in another order than called; `plain` has no BatchNorm, `twice` has two."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm1d(4)
        self.left, self.right = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
        self.plain, self.twice = nn.Linear(5, 2), nn.Linear(4, 5)
        self.fc, self.conv = nn.Linear(3, 4), nn.Conv2d(2, 3, 3)
        for norm in (self.norm1, self.norm2):
            nn.init.normal_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.conv(x))).mean((2, 3))
        both = self.twice(torch.relu(self.norm2(self.fc(hidden))))
        return self.plain(self.left(both) + self.right(both))


def score(model: nn.Module, layer: str) -> Tensor:
    context = Context(model=model, batches=[(torch.randn(3, 2, 5, 5), torch.zeros(3))])
    return CRITERIA["batchnorm"](model.get_parameter(f"{layer}.weight"), context.of(f"{layer}.weight"))


def test_every_weight_of_a_channel_gets_the_scale_of_its_batchnorm() -> None:
    model = OutOfOrder()
    for layer, norm in ((model.conv, model.norm1), (model.fc, model.norm2)):
        found = score(model, "conv" if layer is model.conv else "fc")
        assert found.shape == layer.weight.shape
        for channel, weights in enumerate(found):
            assert bool((weights == norm.weight[channel].abs()).all())
    assert bool((model.norm1.weight < 0).any()) and model.training


@pytest.mark.parametrize("layer", ["plain", "twice"])
def test_a_layer_that_no_single_batchnorm_reads_is_refused(layer: str) -> None:
    with pytest.raises(ValueError, match=rf"output of '{layer}.weight' must go straight into one BatchNorm"):
        score(OutOfOrder(), layer)


def test_a_batchnorm_without_a_scale_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False))
    with pytest.raises(ValueError, match="one BatchNorm with a scale for each of its 3 channels"):
        score(model, "0")


def test_something_between_layer_and_batchnorm_is_refused() -> None:
    """Its scale is then not one of the layer's channels alone."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match=r"got \[\]: ignore this layer, or take another criterion"):
        score(model, "0")
