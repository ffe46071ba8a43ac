"""Networks for latency studies: an MLP, a ViT and ResNet-50, written out with plain layers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(width: int, depth: int, classes: int) -> nn.Module:
    """Return `depth` linear layers of `width`, ReLU between, and a classifier."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flat=nn.Flatten())
    for index in range(depth):
        layers[f"linear{index}"] = nn.Linear(width, width)
        layers[f"relu{index}"] = nn.ReLU()
    layers["head"] = nn.Linear(width, classes)
    return nn.Sequential(layers)


class Vit(nn.Module):
    """A vision transformer, pre-norm, mean-pooled (Dosovitskiy et al. 2021; no class token)."""

    def __init__(self, size: int, patch: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.place = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, max(width // 64, 1)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, 3, size, size)."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


class Block(nn.Module):
    """Attention and a perceptron of four times the width, each beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (n, tokens, width), mixed."""
        y = self.norm1(x)
        q, k, v = (self._split(part(y)) for part in (self.query, self.key, self.value))
        share = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.out((share @ v).transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        return x.reshape(n, tokens, self.heads, width // self.heads).transpose(1, 2)


class ResNet(nn.Module):
    """ResNet with bottlenecks, the stride in the 3x3 (He et al. 2016; v1.5)."""

    def __init__(self, width: int, blocks: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages, inside = [], width
        for index, count in enumerate(blocks):
            for place in range(count):
                stride = 2 if index and not place else 1
                stages.append(Bottleneck(inside, width << index, stride))
                inside = 4 * width << index
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, 3, height, width)."""
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        logits: Tensor = self.head(self.stages(x).mean((2, 3)))
        return logits


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or inside != 4 * width:
            conv = nn.Conv2d(inside, 4 * width, 1, stride=stride, bias=False)
            self.short = nn.Sequential(conv, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm3(self.conv3(F.relu(self.norm2(self.conv2(y)))))
        return F.relu(y + self.short(x))
