"""The networks of the kernel benchmark, random weights, in plain PyTorch."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, act: str = "relu"
) -> nn.Sequential:
    parts: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if act:
        parts.append(nn.ReLU6() if act == "relu6" else nn.ReLU())
    return nn.Sequential(*parts)


class Residual(nn.Module):
    """ResNet's basic block, or its bottleneck (He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            self.body = nn.Sequential(
                _conv(inputs, width, 1),
                _conv(width, width, 3, stride),
                _conv(width, outputs, 1, act=""),
            )
        else:
            self.body = nn.Sequential(
                _conv(inputs, width, 3, stride), _conv(width, outputs, 3, act="")
            )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, stride, act="")

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 and -50, of any width."""

    def __init__(
        self, depths: tuple[int, ...], *, bottleneck: bool, base: int = 64, classes: int = 1000
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, base, 7, 2), nn.MaxPool2d(3, 2, 1)]
        inputs = base
        for stage, depth in enumerate(depths):
            width = base << stage
            for block in range(depth):
                stride = 2 if stage and not block else 1
                layers.append(Residual(inputs, width, stride, bottleneck=bottleneck))
                inputs = 4 * width if bottleneck else width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class MobileNetV1(nn.Module):
    """MobileNetV1 (Howard et al. 2017), of any width."""

    def __init__(self, scale: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        inputs = int(32 * scale)
        layers = [_conv(3, inputs, 3, 2)]
        plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
        for full, stride in (*plan, (1024, 2), (1024, 1)):
            outputs = int(full * scale)
            layers += [_conv(inputs, inputs, 3, stride, inputs), _conv(inputs, outputs, 1)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class Inverted(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        head = [_conv(inputs, wide, 1, act="relu6")] if expand > 1 else []
        depth = _conv(wide, wide, 3, stride, wide, act="relu6")
        self.body = nn.Sequential(*head, depth, _conv(wide, outputs, 1, act=""))
        self.add = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y: Tensor = self.body(x)
        return x + y if self.add else y


class MobileNetV2(nn.Module):
    """MobileNetV2, of any width."""

    def __init__(self, scale: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        inputs, last = int(32 * scale), int(1280 * scale)
        layers: list[nn.Module] = [_conv(3, inputs, 3, 2, act="relu6")]
        plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
        for expand, full, count, stride in (
            *plan,
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            outputs = int(full * scale)
            for block in range(count):
                layers.append(Inverted(inputs, outputs, 1 if block else stride, expand))
                inputs = outputs
        layers.append(_conv(inputs, last, 1, act="relu6"))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class Attention(nn.Module):
    """One transformer block, norm first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.size = heads, width // heads

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        batch, tokens = x.shape[:2]
        parts = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, self.size)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.softmax(q @ k.transpose(-1, -2) * self.size**-0.5, -1)
        mixed = (scores @ v).transpose(1, 2).reshape(batch, tokens, self.heads * self.size)
        x = x + self.out(mixed)
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class ViTTiny(nn.Module):
    """ViT-Ti/16 (Touvron et al. 2021), mean over the tokens instead of a class token."""

    def __init__(
        self,
        width: int = 192,
        heads: int = 3,
        depth: int = 12,
        patch: int = 16,
        size: int = 224,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.place = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*[Attention(width, heads) for _ in range(depth)])
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        logits: Tensor = self.classifier(self.norm(self.blocks(x)).mean(1))
        return logits


class MLP(nn.Module):
    """The feed-forward half of BERT twice, for 128 tokens."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (768, 3072, 768, 3072, 768)
        pairs = itertools.pairwise(sizes)
        self.layers = nn.Sequential(*[m for a, b in pairs for m in (nn.Linear(a, b), nn.ReLU())])

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's outputs."""
        y: Tensor = self.layers(x)
        return y


IMAGE = (3, 224, 224)
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, object], tuple[int, ...]]] = {
    "resnet18": (ResNet, {"depths": (2, 2, 2, 2), "bottleneck": False}, IMAGE),
    "mobilenet_v1": (MobileNetV1, {}, IMAGE),
    "resnet50": (ResNet, {"depths": (3, 4, 6, 3), "bottleneck": True}, IMAGE),
    "mobilenet_v2": (MobileNetV2, {}, IMAGE),
    "mlp": (MLP, {}, (128, 768)),
    "vit_tiny": (ViTTiny, {}, IMAGE),
}


def network(name: str, seed: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network (norms with statistics that matter) and its input's shape."""
    torch.manual_seed(seed)
    kind, options, shape = NETWORKS[name]
    model = kind(**options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.1)
    return model, shape
