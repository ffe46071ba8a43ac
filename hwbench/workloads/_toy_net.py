"""The toy workload's network: batch norm, a residual add and a linear layer in 7 k weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ToyNet(nn.Module):
    """Four convolutions with batch norm, one addition, one linear layer."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = F.relu(self.norm1(self.stem(x)))
        x = F.relu(self.norm2(self.conv(x)) + x)
        x = F.relu(self.norm3(self.down(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
