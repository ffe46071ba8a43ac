"""The two LeNets of the pruning literature (LeCun et al. 1998; sizes as in Han et al. 2015)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet300(nn.Module):
    """LeNet-300-100: two hidden layers of 300 and 100 units, 266 610 parameters."""

    def __init__(self, pixels: int = 784, classes: int = 10) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(pixels, 300)
        self.hidden2 = nn.Linear(300, 100)
        self.classifier = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = F.relu(self.hidden2(F.relu(self.hidden1(x.flatten(1)))))
        logits: Tensor = self.classifier(x)
        return logits


class LeNet5(nn.Module):
    """LeNet-5 in the variant of Caffe: two convolutions, two linear layers, 431 080 parameters."""

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        left = ((size - 4) // 2 - 4) // 2
        self.hidden = nn.Linear(50 * left * left, 500)
        self.classifier = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, size, size)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: Tensor = self.classifier(F.relu(self.hidden(x.flatten(1))))
        return logits
