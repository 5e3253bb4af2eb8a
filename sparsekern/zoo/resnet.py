"""ResNets of basic blocks: ResNet-20 for CIFAR-10 and ResNet-18 for ImageNet (He et al. 2015, arXiv
1512.03385).

Modules with weights have torchvision's names, so that its weights of ResNet-18 load.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsekern.zoo.layers import Convs, Draw, glorot, he, linear, scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and a way around them: a 1x1 convolution where the sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int, conv: Convs) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU(inplace=True)  # one for each place, so that it can become part of a layer
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(m, inputs, h, w) to (m, outputs, h / stride, w / stride)."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        around = x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu2(y + around)
        return result


def _stages(inputs: int, widths: Sequence[int], depth: int, conv: Convs) -> list[nn.Sequential]:
    """A stage of `depth` blocks for each width; all but the first halve the map."""
    stages = []
    for index, width in enumerate(widths):
        blocks = [
            BasicBlock(inputs if block == 0 else width, width, 2 if index and block == 0 else 1, conv)
            for block in range(depth)
        ]
        stages.append(nn.Sequential(*blocks))
        inputs = width
    return stages


class ResNet20(nn.Module):
    """Images (m, 3, 32, 32) to logits (m, 10). What Frankle & Carbin (arXiv 1803.03635, figure 2) call
    ResNet-18.

    270,896 weights, 270,256 of them in convolutions; 274,042 numbers with biases and what batch
    normalisation learns and keeps, which fits the paper's 274K. As there, 1x1 convolutions lead around
    blocks that change sizes, and initialisation is Gaussian Glorot. `generator` draws the weights, and
    nothing else is drawn. `width` scales all convolutions.
    """

    image, classes = (3, 32, 32), 10

    def __init__(self, generator: torch.Generator | None = None, *, width: float = 1.0) -> None:
        super().__init__()
        conv = Convs(generator, glorot)
        widths = [scaled(channels, width) for channels in (16, 32, 64)]
        self.conv1 = conv(3, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1, self.layer2, self.layer3 = _stages(widths[0], widths, 3, conv)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = linear(widths[-1], 10, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 10) of images (m, 3, 32, 32)."""
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class ResNet18(nn.Module):
    """Images (m, 3, 224, 224) to logits (m, 1000).

    11,678,912 weights, 11,166,912 of them in convolutions; 11,689,512 with biases and what batch
    normalisation learns. He initialisation, as torchvision has it. `generator` draws the weights, and
    nothing else is drawn. `width` scales all convolutions.
    """

    image, classes = (3, 224, 224), 1000

    def __init__(
        self, generator: torch.Generator | None = None, draw: Draw = he, *, width: float = 1.0
    ) -> None:
        super().__init__()
        conv = Convs(generator, draw)
        widths = [scaled(channels, width) for channels in (64, 128, 256, 512)]
        self.conv1 = conv(3, widths[0], 7, 2)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(widths[0], widths, 2, conv)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = linear(widths[-1], 1000, generator, draw)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 1000) of images (m, 3, 224, 224)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
