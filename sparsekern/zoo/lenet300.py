"""LeNet-300-100, the fully connected network of LeCun et al. 1998 as Frankle & Carbin trained it.

arXiv 1803.03635, figure 2: 784-300-100-10 with ReLU, 266,200 weights, Gaussian Glorot initialisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekern.zoo.layers import linear, scaled


class LeNet300(nn.Module):
    """Images (m, 1, 28, 28) or (m, 784) to logits (m, 10).

    `generator` draws the weights, and nothing else is drawn; biases start at zero. `width` scales the two
    hidden layers.
    """

    image, classes = (1, 28, 28), 10

    def __init__(self, generator: torch.Generator | None = None, *, width: float = 1.0) -> None:
        super().__init__()
        first, second = scaled(300, width), scaled(100, width)
        self.fc1 = linear(784, first, generator)
        self.fc2 = linear(first, second, generator)
        self.fc3 = linear(second, 10, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 10) of images (m, 1, 28, 28) or (m, 784)."""
        hidden = torch.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(torch.relu(self.fc2(hidden)))
        return logits
