"""Convolutional networks that the kernels' own zoo does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class VGG(nn.Module):
    """VGG-like, for small images (Simonyan & Zisserman 2015, with batch norm)."""

    def __init__(self, base: int = 64, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, count in ((base, 2), (2 * base, 2), (4 * base, 3)):
            for _ in range(count):
                layers.append(_conv(inputs, width))
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(inputs, 8 * base)
        self.classifier = nn.Linear(8 * base, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        x = F.relu(self.hidden(self.features(x).mean((2, 3))))
        logits: Tensor = self.classifier(x)
        return logits


class DSCNN(nn.Module):
    """DS-CNN for keyword spotting (Zhang et al. 2017, "Hello Edge"; MLPerf Tiny)."""

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        pairs = [(_conv(width, width, 3, width), _conv(width, width, 1)) for _ in range(4)]
        self.features = nn.Sequential(*[part for pair in pairs for part in pair])
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of spectrograms (n, 1, time, bands)."""
        logits: Tensor = self.classifier(self.features(self.stem(x)).mean((2, 3)))
        return logits


class UNet(nn.Module):
    """U-Net with two levels and skips by concatenation (Ronneberger et al. 2015)."""

    def __init__(self, base: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.down1, self.down2 = _conv(3, base), _conv(base, 2 * base)
        self.middle = _conv(2 * base, 4 * base)
        self.lift2 = nn.ConvTranspose2d(4 * base, 2 * base, 2, 2)
        self.up2 = _conv(4 * base, 2 * base)
        self.lift1 = nn.ConvTranspose2d(2 * base, base, 2, 2)
        self.up1 = _conv(2 * base, base)
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes, height, width)."""
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        deep = self.middle(F.max_pool2d(two, 2))
        two = self.up2(torch.cat([two, self.lift2(deep)], 1))
        one = self.up1(torch.cat([one, self.lift1(two)], 1))
        logits: Tensor = self.head(one)
        return logits
