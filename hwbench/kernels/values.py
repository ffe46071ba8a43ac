"""What a module under construction is made of: values in planes, and notes on its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwbench.kernels import layouts
from hwbench.kernels.graph import Step
from hwbench.kernels.layouts import Layout
from hwbench.kernels.problem import Windowed


@dataclass(frozen=True, slots=True)
class Planes:
    """A value in planes: a flat buffer, its layout, and how many images and channels it holds.

    ``sign`` is True when no element is negative: a maximum may then pad with zeros.
    """

    var: Any
    layout: Layout
    images: int
    channels: int
    sign: bool = False
    dtype: str = "float32"
    """``int32``: four channels of 8 bits in a word, ``channels`` counts words."""
    pad: float = 0
    """What its padding holds."""

    @property
    def planes(self) -> int:
        """Planes per image in the buffer."""
        return layouts.round_up(self.channels, layouts.ROW_MULTIPLE)


@dataclass(frozen=True, slots=True)
class LoweredLayer:
    """What one step became: for the explanation, and to find its time again by its function."""

    layer: str
    function: str
    form: str
    density: float
    flops: float
    config: str = ""
    walked: float = 0.0
    signature: str = ""
    """Of the problem, where a configuration was chosen."""
    reuse: int = 1
    """Multiply-adds that share a loaded input: 1 when every one loads its own."""
    per_load: int = 1
    """Multiply-adds that one load of 32 bits feeds: 4 where numbers have 8."""
    within: str = ""
    """The layer whose kernel computes this one as well; empty: it has its own ``function``."""


@dataclass(frozen=True, slots=True)
class PendingDepthwise:
    """A depthwise layer that waits for the 1x1 layer behind it: one kernel may do both."""

    step: Step
    windowed: Windowed
    x: Any
