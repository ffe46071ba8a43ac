"""Recurrent networks and encoders, with attention by hand and with nn.MultiheadAttention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Recurrent(nn.Module):
    """An LSTM or a GRU of two layers over (n, steps, inputs); the last state is classified."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], width: int, classes: int = 10) -> None:
        super().__init__()
        self.recurrent = kind(40, width, num_layers=2, batch_first=True)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.classifier(self.recurrent(x)[0][:, -1])
        return logits


class SelfAttention(nn.Module):
    """Attention with a projection each for queries, keys and values, as BERT has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, width)."""
        n, tokens = x.shape[:2]

        def split(y: Tensor) -> Tensor:
            return y.view(n, tokens, self.heads, self.size).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.size**-0.5, -1)
        mixed = (weights @ v).transpose(1, 2).reshape(n, tokens, self.heads * self.size)
        y: Tensor = self.out(mixed)
        return y


class EncoderLayer(nn.Module):
    """BERT's layer, norms last (Devlin et al. 2019), or with the norms first, as a ViT has it."""

    def __init__(self, width: int, heads: int, *, first: bool, builtin: bool) -> None:
        super().__init__()
        self.first = first
        self.attention: nn.Module
        if builtin:
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        else:
            self.attention = SelfAttention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, width)."""
        if self.first:
            x = x + self._attend(self.norm1(x))
            return x + self._mlp(self.norm2(x))
        x = self.norm1(x + self._attend(x))
        y: Tensor = self.norm2(x + self._mlp(x))
        return y

    def _attend(self, x: Tensor) -> Tensor:
        if isinstance(self.attention, nn.MultiheadAttention):
            found: Tensor = self.attention(x, x, x, need_weights=False)[0]
        else:
            found = self.attention(x)
        return found

    def _mlp(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x)))
        return y


class Encoder(nn.Module):
    """A few layers over embedded vectors (n, tokens, inputs); their mean is classified."""

    def __init__(
        self, width: int, heads: int, depth: int, *, first: bool, builtin: bool, classes: int = 10
    ) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(40, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            [EncoderLayer(width, heads, first=first, builtin=builtin) for _ in range(depth)]
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        x = self.norm(self.embed(x))
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classifier(x.mean(1))
        return logits
