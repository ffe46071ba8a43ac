"""Small networks, one for each thing that pruning stumbles over."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwbench.records import CompressionSpec, TrainSpec, WorkloadSpec


class Depthwise(nn.Module):
    """A stem, a depthwise-separable pair, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.spatial = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.point = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.point(F.relu(self.spatial(x))))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class Attention(nn.Module):
    """A pre-norm encoder layer around nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 32)
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(x)))
        out: Tensor = self.head(x.mean(1))
        return out


class Shuffle(nn.Module):
    """A ShuffleNetV2 unit: split, convolve one half, concatenate, shuffle channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 1)
        self.mix = nn.Conv2d(32, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.stem(x)).chunk(2, 1)
        x = torch.cat([left, F.relu(self.conv(right))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y: Tensor = self.head(F.relu(self.mix(x)).mean((2, 3)))
        return y


class Windows(nn.Module):
    """Swin's habit: tokens rolled, cut into windows, attention by hand with four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 2, 2)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.proj = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(-1, 4, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, c)
        y = self.proj(y).reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        out: Tensor = self.head((x + y.reshape(n, h, w, c)).mean((1, 2)))
        return out


class Grouped(nn.Module):
    """A grouped convolution and a group norm: channels leave in equal blocks or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.GroupNorm(4, 32)
        self.conv = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.norm(self.stem(x)))))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def spec(
    pattern: str = "unstructured",
    criterion: str = "magnitude",
    scope: str = "global",
    sparsity: float = 0.5,
    **more: Any,
) -> CompressionSpec:
    """Return a compression spec on the toy workload."""
    fixed = CompressionSpec(
        WorkloadSpec("toy"), TrainSpec(epochs=1), pattern, criterion, scope, sparsity
    )
    return dataclasses.replace(fixed, **more)


def images(batch: int = 2, size: int = 8) -> Tensor:
    """Return random images (batch, 3, size, size)."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def warmed(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Return the model in evaluation mode with batch-norm statistics and scales of its own."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
        model.train()
        model(inputs)
    return model.eval()
