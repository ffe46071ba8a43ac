"""The grid: every candidate, in the order of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.protocols import Sampler
from hwbench.records import Point
from hwbench.traits import SamplerTraits

TRAITS = SamplerTraits(requires={}, chooses=False)


@dataclass(frozen=True, slots=True)
class Options:
    """None: the order is the plan's."""


class GridSampler:
    """Walks through the space from the first point to the last."""

    def __init__(self, options: Options) -> None:
        """Begin with an empty space."""
        self._left: list[int] = []

    def begin(self, space: Sequence[Point], objectives: int) -> None:
        """Take the space to walk on."""
        self._left = list(range(len(space)))

    def ask(self) -> int | None:
        """Return the next point, or None at the end."""
        return self._left.pop(0) if self._left else None

    def tell(self, index: int, costs: Sequence[float] | None) -> None:
        """Learn nothing: the order is fixed."""


PLUGIN: type[Sampler] = GridSampler
