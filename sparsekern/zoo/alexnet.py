"""AlexNet for ImageNet, in the form that torchvision has it (Krizhevsky 2014, arXiv 1404.5997).

5 convolutions and 3 fully connected layers, 61,100,840 parameters, 61,090,496 of them weights, 58,621,952
of these fully connected. It is not the network of 2012, whose two halves met in some layers only; Han et
al. 2015 (arXiv 1506.02626) prune one of 61 million as well. The modules have torchvision's names, so that
its weights load; weights start as in torch's own layers, biases at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekern.zoo.layers import Convs, linear, scaled, usual


class AlexNet(nn.Module):
    """Images (m, 3, 224, 224) to logits (m, 1000).

    `generator` draws the weights. `width` scales all hidden layers. `dropout` is the rate in front of the two
    large linear layers; in training it draws from torch's own generator.
    """

    image, classes = (3, 224, 224), 1000

    def __init__(
        self, generator: torch.Generator | None = None, *, width: float = 1.0, dropout: float = 0.5
    ) -> None:
        super().__init__()
        first, second, third, fourth = (scaled(channels, width) for channels in (64, 192, 384, 256))
        hidden = scaled(4096, width)
        conv = Convs(generator, usual, bias=True)
        self.features = nn.Sequential(
            conv(3, first, 11, 4, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            conv(first, second, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            conv(second, third, 3),
            nn.ReLU(inplace=True),
            conv(third, fourth, 3),
            nn.ReLU(inplace=True),
            conv(fourth, fourth, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            linear(fourth * 36, hidden, generator, usual),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            linear(hidden, hidden, generator, usual),
            nn.ReLU(inplace=True),
            linear(hidden, 1000, generator, usual),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 1000) of images (m, 3, 224, 224)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits
