"""LeNet-300-100, the fully connected network of LeCun et al. 1998 as Frankle & Carbin trained it.

arXiv 1803.03635, figure 2: 784-300-100-10 with ReLU, 266,200 weights, Gaussian Glorot initialisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekern.zoo.layers import linear


class LeNet300(nn.Module):
    """Images (m, 1, 28, 28) or (m, 784) to logits (m, 10).

    `generator` draws the weights, and nothing else is drawn; biases start at zero.
    """

    image, classes = (1, 28, 28), 10

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.fc1 = linear(784, 300, generator)
        self.fc2 = linear(300, 100, generator)
        self.fc3 = linear(100, 10, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 10) of images (m, 1, 28, 28) or (m, 784)."""
        hidden = torch.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(torch.relu(self.fc2(hidden)))
        return logits
