"""What a search walks on, and what it tried on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate as a sampler sees it: a word or a number on each axis of the space."""

    names: Mapping[str, str]
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate that a search tried, in the order of trying.

    ``seconds`` since the search began; ``costs`` by objective, relative to the reference (1: as
    good, less is better), None when it failed; ``evidence`` says how much was known then:
    ``untrained`` (batch norms estimated again, no fine-tuning) or ``trained``. ``dropped`` is
    the reason why it was not trained, empty if it was.
    """

    candidate: str
    label: str
    seconds: float
    costs: Mapping[str, float] | None
    evidence: str
    dropped: str = ""
