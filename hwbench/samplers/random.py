"""Random search: the control that every cleverer sampler has to beat (Bergstra & Bengio 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hwbench.protocols import Sampler
from hwbench.records import Point
from hwbench.traits import SamplerTraits

TRAITS = SamplerTraits(requires={}, chooses=True)


@dataclass(frozen=True, slots=True)
class Options:
    """``seed``: of the order."""

    seed: int = 0


class RandomSampler:
    """Walks through the space in a random order."""

    def __init__(self, options: Options) -> None:
        """Keep the seed."""
        self._options = options
        self._left: list[int] = []

    def begin(self, space: Sequence[Point], objectives: int) -> None:
        """Shuffle the space; the same seed gives the same order."""
        self._left = list(range(len(space)))
        Random(self._options.seed).shuffle(self._left)  # noqa: S311  (an order, not a secret)

    def ask(self) -> int | None:
        """Return the next point, or None at the end."""
        return self._left.pop() if self._left else None

    def tell(self, index: int, costs: Sequence[float] | None) -> None:
        """Learn nothing: that is the point of a control."""


PLUGIN: type[Sampler] = RandomSampler
