"""What a night left: tonight's artifacts beside the pinned ones, target by target."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwbench.records.asked import MeasureSpec


class Status(enum.StrEnum):
    """What a night says about one metric of one candidate."""

    FINE = "fine"
    WORSE = "worse"
    """Beyond the floor in two sessions of the same night."""
    CREEP = "creep"
    """Beyond the floor over several nights, none of which was enough alone."""
    BETTER = "better"
    UNCONFIRMED = "unconfirmed"
    """Beyond the floor in the first session, not in the second: no alarm."""
    LOST = "lost"
    """The pinned artifact has a number and tonight's has none."""
    MISSING = "missing"
    """Neither has one that can be compared; the reason is said."""


@dataclass(frozen=True, slots=True)
class Floor:
    """Less than this is no change: a share of the pinned figure, and an amount in SI units.

    Both must be exceeded. For metrics that are fractions themselves (accuracy) ``share`` is the
    difference: 0.01 is one percentage point.
    """

    share: float
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class NightlyPlan:
    """What is run every night: all pairs of recipes and targets, by name.

    ``floors`` are shares by metric that replace the usual ones; ``measure`` how sessions are run.
    """

    name: str
    title: str
    recipes: tuple[str, ...]
    targets: tuple[str, ...]
    floors: Mapping[str, float]
    measure: MeasureSpec


ALARMS = frozenset({Status.WORSE, Status.CREEP, Status.LOST})


@dataclass(frozen=True, slots=True)
class Change:
    """One metric in one session: the pinned artifact's number, tonight's, and their ratio.

    ``low`` and ``high`` bound the 99 % interval of the ratio where there is one. ``chance`` is
    the probability of such a difference by chance where that is what can be told (accuracy).
    """

    before: float | None = None
    now: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One series tonight: a metric of a candidate, with both sessions and what they say.

    ``candidate`` is the label with its backend: it stays the same when a recipe's training
    changes. ``floor`` is the share (of fractions: the difference) that counts as no change.
    ``since`` is the number of the night from which on a creep is seen.
    """

    candidate: str
    metric: str
    source: str
    floor: float
    first: Change
    again: Change | None = None
    status: Status = Status.FINE
    reason: str = ""
    since: int | None = None

    @property
    def alarm(self) -> bool:
        """Whether this wakes somebody up."""
        return self.status in ALARMS


@dataclass(frozen=True, slots=True)
class Pin:
    """Artifacts and results that nights are held against: which, since when, who and why.

    ``artifacts`` is the content hash of everything pinned; ``number`` counts the pins of this
    recipe on this target; ``at`` is ISO 8601 in UTC.
    """

    recipe: str
    target: str
    number: int
    artifacts: str
    at: str
    who: str
    why: str
    commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    recipe_digest: str = ""
    fingerprint: str = ""

    def age(self, at: str) -> str:
        """Return how old it is at a moment (ISO 8601), in words."""
        then, later = (datetime.datetime.fromisoformat(t) for t in (self.at, at))
        days = (later - then).days
        if later < then:
            return "from the future: a clock was set back"
        return "of today" if days == 0 else f"{days} day{'s' if days > 1 else ''} old"


@dataclass(frozen=True, slots=True)
class MethodTonight:
    """What one pruning method does on one device tonight, for the table over all devices.

    ``ratio`` is the latency of its best candidate over the dense model's; ``meets`` says whether
    that candidate meets the recipe's goals.
    """

    method: str
    candidate: str
    ratio: float | None
    low: float | None
    high: float | None
    score: float | None
    score_change: float | None
    metric: str
    meets: bool
    verdict: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A recipe on a target, one night.

    ``measured`` is False when nothing can be said; ``why`` then says why and ``mend`` what to do.
    ``shadow`` is the pinned dense model's own copy over it: what it is off by is the session's
    error. ``changed`` is what is different from when the baseline was pinned, ``hints`` which of
    it is to blame, ``samples`` where the raw samples lie (relative to the night's folder).
    ``conditions`` holds the three rings of the device. ``segment`` hashes what must stay the same
    for nights to make one series.
    """

    recipe: str
    target: str
    measured: bool
    readings: tuple[Reading, ...] = ()
    why: str = ""
    mend: str = ""
    pin: Pin | None = None
    segment: str = ""
    fingerprint: str = ""
    shadow: tuple[Change, ...] = ()
    changed: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    samples: str = ""
    artifacts: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    recipe_digest: str = ""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[MethodTonight, ...] = ()
    ship: str = ""
    ship_reason: str = ""
    seconds: float = 0.0

    @property
    def alarms(self) -> tuple[Reading, ...]:
        """The readings that wake somebody up."""
        return tuple(r for r in self.readings if r.alarm)


@dataclass(frozen=True, slots=True)
class Night:
    """One run over all pairs. ``number`` counts nights; it orders them even if a clock does not.

    ``started`` is ISO 8601 in UTC; ``commit`` that of the code, with ``+`` for local changes.
    """

    run: str
    number: int
    started: str
    commit: str
    host: str
    plan: str
    pairs: tuple[Pair, ...]
    events: tuple[str, ...] = ()

    @property
    def alarms(self) -> tuple[tuple[Pair, Reading], ...]:
        """Every alarm with its pair."""
        return tuple((p, r) for p in self.pairs for r in p.alarms)

    @property
    def unmeasured(self) -> tuple[Pair, ...]:
        """The pairs of which nothing can be said."""
        return tuple(p for p in self.pairs if not p.measured)


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One night of a trend: its ratio to the baseline of then, and what was said of it."""

    number: int
    started: str
    commit: str
    segment: str
    ratio: float | None
    low: float | None
    high: float | None
    status: Status


@dataclass(frozen=True, slots=True)
class Trend:
    """A series over the nights: ``changes`` are the indices of points at which its level moved."""

    target: str
    recipe: str
    candidate: str
    metric: str
    floor: float
    points: tuple[TrendPoint, ...]
    changes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowRate:
    """How often a session told the pinned dense model from its own copy (99 %): the A/A rate."""

    sessions: int
    off: int
    typical: float | None
    """The median of what the copy was off by, as a share."""
