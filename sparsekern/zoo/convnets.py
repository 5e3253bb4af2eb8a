"""Conv-2, Conv-4 and Conv-6: small networks in the manner of VGG that Frankle & Carbin trained on CIFAR-10.

arXiv 1803.03635, figure 2: pairs of 3x3 convolutions, each pair followed by a 2x2 max-pooling, then 256,
256 and 10 fully connected, ReLU, Gaussian Glorot initialisation. 4,300,992, 2,425,024 and 2,261,184
weights. Of Conv-6 the figure says 1.7 million, which does not fit the layers that it lists, nor the shares
of weights that the paper reports.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsekern.zoo.layers import Convs, linear


class ConvNet(nn.Module):
    """Images (m, 3, 32, 32) to logits (m, 10): a pair of convolutions for each of `widths`.

    `generator` draws the weights, and nothing else is drawn; biases start at zero.
    """

    image, classes = (3, 32, 32), 10

    def __init__(self, widths: Sequence[int], generator: torch.Generator | None = None) -> None:
        super().__init__()
        conv, inputs = Convs(generator, bias=True), 3
        layers: list[nn.Module] = []
        for width in widths:
            layers += [conv(inputs, width, 3), nn.ReLU(), conv(width, width, 3), nn.ReLU(), nn.MaxPool2d(2)]
            inputs = width
        self.features = nn.Sequential(*layers)
        side = 32 >> len(widths)
        self.classifier = nn.Sequential(
            linear(inputs * side**2, 256, generator),
            nn.ReLU(),
            linear(256, 256, generator),
            nn.ReLU(),
            linear(256, 10, generator),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 10) of images (m, 3, 32, 32)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class Conv2(ConvNet):
    """4,300,992 weights, 38,592 of them in convolutions."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__((64,), generator)


class Conv4(ConvNet):
    """2,425,024 weights, 259,776 of them in convolutions."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__((64, 128), generator)


class Conv6(ConvNet):
    """2,261,184 weights, 1,144,512 of them in convolutions."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__((64, 128, 256), generator)
