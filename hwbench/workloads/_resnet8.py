"""ResNets for small images in plain PyTorch: a stem, residual blocks, one linear layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut (He et al. 2016, basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, height/stride, width/stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet8(nn.Module):
    """The network of the MLPerf Tiny image task, widths and stem stride free."""

    def __init__(
        self, channels: int, classes: int, widths: tuple[int, int, int], stem_stride: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, stem_stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.block1 = ResidualBlock(widths[0], widths[0], 1)
        self.block2 = ResidualBlock(widths[0], widths[1], 2)
        self.block3 = ResidualBlock(widths[1], widths[2], 2)
        self.classifier = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = F.relu(self.norm(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


class ResNet18(nn.Module):
    """Four stages of two residual blocks, as in He et al. 2016, with the stem of `ResNet8`."""

    def __init__(self, channels: int, classes: int, base: int, stem_stride: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, base, 3, stem_stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(base)
        blocks = []
        inputs = base
        for stage in range(4):
            for stride in (2 if stage else 1, 1):
                blocks.append(ResidualBlock(inputs, base << stage, stride))
                inputs = base << stage
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
