"""VGG-16 and VGG-19 with batch normalisation for CIFAR-10, as the lottery-ticket papers trained them.

Simonyan & Zisserman 2014 (arXiv 1409.1556), columns D and E, for images of 32 pixels: Frankle & Carbin
(arXiv 1803.03635, figure 2) leave out the last pooling and the two large fully connected layers; an
average over what is left of the map and one layer of 10 outputs follow. Gaussian Glorot initialisation.
Convolutions have no bias, as each is followed by a normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsekern.zoo.layers import Convs, linear, scaled

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Images (m, 3, 32, 32) to logits (m, 10): `depths` convolutions of each of WIDTHS, poolings between
    them.

    `generator` draws the weights, and nothing else is drawn. `width` scales all convolutions.
    """

    image, classes = (3, 32, 32), 10

    def __init__(
        self, depths: Sequence[int], generator: torch.Generator | None = None, width: float = 1.0
    ) -> None:
        super().__init__()
        conv, inputs = Convs(generator), 3
        layers: list[nn.Module] = []
        for channels, depth in zip((scaled(size, width) for size in WIDTHS), depths, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [conv(inputs, channels, 3), nn.BatchNorm2d(channels), nn.ReLU()]
                inputs = channels
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AvgPool2d(2)
        self.classifier = linear(inputs, 10, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 10) of images (m, 3, 32, 32)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


class VGG16(VGG):
    """14,715,584 weights, 14,710,464 of them in 13 convolutions."""

    def __init__(self, generator: torch.Generator | None = None, *, width: float = 1.0) -> None:
        super().__init__((2, 2, 3, 3, 3), generator, width)


class VGG19(VGG):
    """20,024,000 weights, 20,018,880 of them in 16 convolutions."""

    def __init__(self, generator: torch.Generator | None = None, *, width: float = 1.0) -> None:
        super().__init__((2, 2, 4, 4, 4), generator, width)
