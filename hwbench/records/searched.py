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


@dataclass(frozen=True, slots=True)
class Choice:
    """What one layer can lose: a share of its channels, what the model saves by it and loses.

    ``saved`` in seconds per inference, measured in place; ``loss`` in accuracy (batch norms
    estimated again, no training).
    """

    share: float
    saved: float
    loss: float


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Latency by layer and width on one device: what each layer alone saves, in seconds.

    ``dense`` is the whole model's time there; ``fingerprint`` the device's; ``units`` the
    channels of each layer.
    """

    target: str
    fingerprint: str
    backend: str
    dense: float
    units: Mapping[str, int]
    choices: Mapping[str, tuple[Choice, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to meet a time budget: shares by layer, its measured time and its accuracy.

    ``seconds`` has its 95 % interval; ``scores`` one validation score a fine-tuning seed.
    """

    name: str
    ratios: Mapping[str, float]
    seconds: float
    low: float
    high: float
    scores: tuple[float, ...] = ()
