"""Conv-2, Conv-4 and Conv-6: small networks in the manner of VGG that Frankle & Carbin trained on CIFAR-10.

arXiv 1803.03635, figure 2: pairs of 3x3 convolutions, each pair followed by a 2x2 max-pooling, then 256,
256 and 10 fully connected, ReLU, Gaussian Glorot initialisation. 4,300,992, 2,425,024 and 2,261,184
weights. Of Conv-6 the figure says 1.7 million, which does not fit the layers that it lists, nor the shares
of weights that the paper reports.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekern.zoo.layers import Convs, linear, scaled


class ConvNet(nn.Module):
    """Images (m, 3, 32, 32) to logits (m, 10): a pair of convolutions for each of `widths`.

    `generator` draws the weights, and nothing else is drawn; biases start at zero. `width` scales all hidden
    layers. `dropout` is the rate behind the two hidden linear layers (the paper's section 3 has 0.5, and does
    not say where); it changes no name, and in training it draws from torch's own generator.
    """

    image, classes = (3, 32, 32), 10
    widths: tuple[int, ...]

    def __init__(
        self, generator: torch.Generator | None = None, *, width: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        hidden = scaled(256, width)
        conv, inputs = Convs(generator, bias=True), 3
        layers: list[nn.Module] = []
        for channels in (scaled(channels, width) for channels in self.widths):
            layers += [conv(inputs, channels, 3), nn.ReLU()]
            layers += [conv(channels, channels, 3), nn.ReLU(), nn.MaxPool2d(2)]
            inputs = channels
        self.features = nn.Sequential(*layers)
        side = 32 >> len(self.widths)
        self.classifier = nn.Sequential(
            linear(inputs * side**2, hidden, generator),
            _relu(dropout),
            linear(hidden, hidden, generator),
            _relu(dropout),
            linear(hidden, 10, generator),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 10) of images (m, 3, 32, 32)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _relu(dropout: float) -> nn.Module:
    """One module either way, so that the layers behind it keep their names."""
    return nn.Sequential(nn.ReLU(), nn.Dropout(dropout)) if dropout else nn.ReLU()


class Conv2(ConvNet):
    """4,300,992 weights, 38,592 of them in convolutions."""

    widths = (64,)


class Conv4(ConvNet):
    """2,425,024 weights, 259,776 of them in convolutions."""

    widths = (64, 128)


class Conv6(ConvNet):
    """2,261,184 weights, 1,144,512 of them in convolutions."""

    widths = (64, 128, 256)
