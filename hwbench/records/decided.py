"""What was decided, and the whole study that a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hwbench.records.asked import Recipe, TargetProfile
from hwbench.records.made import Sensitivity
from hwbench.records.measured import Beside, Conditions, Result
from hwbench.records.metrics import Source, Value
from hwbench.records.searched import Tried
from hwbench.records.shifted import Shifted


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one candidate stands: on the front, dominated (by whom), out, or chosen.

    ``on_front`` is the probability of being on the front, by bootstrap over the generations;
    None where it cannot be told.
    """

    candidate: str
    status: Literal["chosen", "front", "dominated", "missing", "failed"]
    meets_goals: bool
    reasons: tuple[str, ...] = ()
    on_front: float | None = None


@dataclass(frozen=True, slots=True)
class Repeated:
    """How sure the accuracy of one candidate is, beside another's on the same images.

    ``scores`` are those of its fine-tuning seeds on the validation split (the shipped one
    first); ``difference`` is what it is more often right than ``other``, as a share of all
    ``images``, ``low`` and ``high`` bound 95 % (paired bootstrap), ``p`` is McNemar's.
    """

    candidate: str
    scores: tuple[float, ...]
    other: str
    difference: float
    low: float
    high: float
    p: float
    images: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model to ship on this device, and why.

    ``chosen`` and ``dense`` are candidate keys; ``chosen`` is None when no candidate meets the
    goals. ``test`` holds the test split's score of the chosen and of the dense model, read once.
    ``confirmed`` is how the chosen model did head to head with its rivals, in fresh processes;
    ``proxies`` says in sentences what would change if the numbers that are proxies were off.
    ``basis`` is the source of the numbers that it was chosen by: what is not measured says so.
    ``accuracy`` is how sure the accuracies that decided are.
    """

    target: str
    recipe: str
    chosen: str | None
    dense: str | None
    verdict: Literal["pruned", "dense", "none"]
    reason: str
    standings: tuple[Standing, ...]
    test: Mapping[str, Value] = field(default_factory=dict)
    confirmed: tuple[Beside, ...] = ()
    proxies: tuple[str, ...] = ()
    basis: Source = Source.MEASURED
    accuracy: tuple[Repeated, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """A whole run of one recipe on one target: what the report shows.

    ``versions`` is the host's software; ``started`` ISO 8601 in UTC; ``seconds`` the wall time
    of each phase by name, of this run. ``tried`` is the history of the search, where there was
    one: what it tried, in its order, with the reason of what it dropped. ``sensitivity`` is what
    each layer loses alone, by pattern and criterion, on the host.
    """

    recipe: Recipe
    target: TargetProfile
    results: tuple[Result, ...]
    decision: Decision
    conditions: Conditions | None
    versions: Mapping[str, str]
    started: str
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    shift: tuple[Shifted, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
