"""How close each layer of a network came to what its device can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer as it ran: its seconds in place, and what it had to do.

    ``operations`` count two a multiply-add, as if no weight were zero; ``multiplied`` are those
    that its kernel really does. ``nbytes`` is the least that must move: the weights as they are
    stored, what comes in, what goes out. ``format`` names the ceiling it is held against.
    """

    name: str
    kernel: str
    format: str
    seconds: float
    operations: float
    multiplied: float
    nbytes: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A device's two ceilings, measured there, and the layers of one artifact under them.

    ``bandwidth`` is that of a copy in bytes/s, read and written; ``rates`` that of a large matrix
    product in operations/s, by number format. ``seconds`` is one whole inference, ``how`` what all
    was timed by. Without layers, ``reason`` says why there are none.
    """

    bandwidth: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    how: str = ""
    layers: tuple[LayerTime, ...] = ()
    reason: str = ""

    def least(self, layer: LayerTime) -> float:
        """Return the seconds that the ceilings allow a layer at best."""
        return max(layer.multiplied / self.rates[layer.format], layer.nbytes / self.bandwidth)

    def fraction(self, layer: LayerTime) -> float:
        """Return how much of its ceiling a layer reaches: 1 is all of it."""
        return self.least(layer) / layer.seconds

    def share(self, layer: LayerTime) -> float:
        """Return a layer's share of the inference."""
        return layer.seconds / self.seconds

    def bound(self, layer: LayerTime) -> str:
        """Return which ceiling a layer stands under: ``memory`` or ``arithmetic``."""
        by_memory = layer.nbytes / self.bandwidth
        return (
            "memory" if by_memory >= layer.multiplied / self.rates[layer.format] else "arithmetic"
        )
