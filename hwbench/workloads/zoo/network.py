"""What the zoo knows of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Network:
    """How a network is made (the argument: tiny or not), and the shapes of one input."""

    build: Callable[[bool], nn.Module]
    shape: tuple[int, ...]
    tiny_shape: tuple[int, ...]
