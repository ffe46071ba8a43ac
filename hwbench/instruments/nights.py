"""Nights whose truth is known: does the judge cry wolf, and does it see what it must?

Everything between the samples and the verdict is the real thing: a session is made of `Process`
records, estimated by `hwbench.stats`, judged by `judge`, confirmed by a fresh second session and
watched for creep by `creep`. Only the device is drawn at random. Its noise is that of a shared
x86 machine: identical code in two processes differs by 1 % for good (`stats.PROCESS_SPREAD`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hwbench import stats
from hwbench.records import Change, Process, Status, Visit
from hwbench.regress.creep import crept, pooled
from hwbench.regress.judge import FLOORS, conclude, judge

Kind = Literal["none", "step", "creep", "outlier", "drift", "mode", "fingerprint"]
KINDS: tuple[Kind, ...] = ("none", "step", "creep", "outlier", "drift", "mode", "fingerprint")
QUIET: tuple[Kind, ...] = ("none", "outlier", "drift", "mode", "fingerprint")
"""Worlds in which nothing is wrong with the models, whatever the device does."""

_METRIC = "latency_p50"
_DECIDE = 0.99
_ROUND_NOISE = 0.005
_SLOW_MODE, _SLOW_SHARE = 0.04, 0.2


@dataclass(frozen=True, slots=True)
class World:
    """What is true: so much of a change of one kind, in one of the series, from one night on.

    A ``creep`` grows to ``size`` within ``over`` nights. ``generations`` and ``rounds`` are those
    of a session.
    """

    kind: Kind
    size: float = 0.0
    begins: int = 10
    over: int = 10
    nights: int = 30
    series: int = 40
    generations: int = 5
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Lifetime:
    """What the judge said about a world: alarms as (night, series, status), and new segments."""

    world: World
    alarms: tuple[tuple[int, int, Status], ...]
    segments: int

    @property
    def false(self) -> int:
        """Series that alarmed although nothing was wrong with them."""
        guilty = self.world.kind in ("step", "creep")
        return len(
            {s for n, s, _ in self.alarms if not (guilty and s == 0 and n >= self.world.begins)}
        )

    @property
    def after(self) -> int | None:
        """Nights from the change to its alarm (0: the same night); None: never seen."""
        nights = [n for n, s, _ in self.alarms if s == 0 and n >= self.world.begins]
        return min(nights) - self.world.begins if nights else None


def live(world: World, seed: int) -> Lifetime:
    """Return what the judge says of all nights of a world."""
    rng = np.random.default_rng(seed)
    device = _Device(world, rng)
    history: list[list[Change]] = [[] for _ in range(world.series)]
    alarms: list[tuple[int, int, Status]] = []
    fingerprint, segments = device.fingerprint(0), 1
    for night in range(world.nights):
        if device.fingerprint(night) != fingerprint:
            fingerprint, segments = device.fingerprint(night), segments + 1
            history = [[] for _ in range(world.series)]
        for series, status in _night(device, night, history):
            alarms.append((night, series, status))
    return Lifetime(world, tuple(alarms), segments)


def _night(
    device: _Device, night: int, history: Sequence[list[Change]]
) -> Iterator[tuple[int, Status]]:
    floor = FLOORS[_METRIC]
    first = device.session(night, 0)
    statuses = [judge(_METRIC, change, floor) for change in first]
    again: Sequence[Change] = ()
    if Status.WORSE in statuses:
        again = device.session(night, 1)
    for series, status in enumerate(statuses):
        second = judge(_METRIC, again[series], floor) if again else None
        concluded = conclude(status, second)
        history[series].append(pooled(first[series], again[series] if again else None))
        if concluded is not Status.WORSE and crept(history[series], floor.share) is not None:
            concluded = Status.CREEP
        if concluded in (Status.WORSE, Status.CREEP):
            yield series, concluded


class _Device:
    """Draws the sessions of a world."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world = world
        self._rng = rng
        self._common = 0.0
        self._drift = np.zeros(world.series)
        self._outlier = int(rng.integers(world.series))

    def fingerprint(self, night: int) -> str:
        """Return what the device is that night."""
        changed = self._world.kind == "fingerprint" and night >= self._world.begins
        return "another kernel" if changed else "a kernel"

    def session(self, night: int, attempt: int) -> list[Change]:
        """Return the change of every series in one session."""
        world, rng = self._world, self._rng
        level = self._level(night)
        # Two copies of every series, the pinned one and tonight's, and the reference.
        offsets = rng.normal(0.0, stats.PROCESS_SPREAD / math.sqrt(2.0), self._shape(2))
        if world.kind == "mode":
            offsets += _SLOW_MODE * (rng.random(offsets.shape) < _SLOW_SHARE)
        offsets[:, 1, :] += self._truth(night)
        if world.kind == "outlier" and night == world.begins and attempt == 0:
            offsets[:, 1, self._outlier] += 0.2
        noise = rng.normal(0.0, _ROUND_NOISE, (*offsets.shape, world.rounds))
        logs = level + offsets[..., None] + noise
        pinned, tonight = (
            [_processes(logs[:, side, series]) for series in range(world.series)] for side in (0, 1)
        )
        spread = stats.pooled_spread([*pinned[1:], *tonight], pinned[0])
        return [
            _change(stats.ratio(candidate, baseline, _DECIDE, spread))
            for candidate, baseline in zip(tonight, pinned, strict=True)
        ]

    def _shape(self, sides: int) -> tuple[int, int, int]:
        return (self._world.generations, sides, self._world.series)

    def _level(self, night: int) -> float:
        """What all have in common that night: the machine's own speed, which drifts."""
        swing = 0.10 if self._world.kind == "drift" else 0.02
        self._common = 0.9 * self._common + float(self._rng.normal(0.0, swing * 0.44))
        return self._common + (0.3 if self.fingerprint(night) != "a kernel" else 0.0)

    def _truth(self, night: int) -> np.ndarray:
        """Return ln(tonight / pinned) of every series, as it is."""
        world = self._world
        truth = np.zeros(world.series)
        if world.kind == "drift":
            # What the pairing does not cancel: layouts and neighbours that come and go.
            self._drift = 0.7 * self._drift + self._rng.normal(0.0, 0.001, world.series)
            return self._drift
        if night >= world.begins and world.kind == "step":
            truth[0] = math.log1p(world.size)
        if night >= world.begins and world.kind == "creep":
            grown = min((night - world.begins + 1) / world.over, 1.0)
            truth[0] = math.log1p(world.size * grown)
        return truth


def _processes(logs: np.ndarray) -> tuple[Process, ...]:
    return tuple(
        Process("", "candidate", generation, 0.0, 0.0, 0, tuple(map(_visit, range(len(row)), row)))
        for generation, row in enumerate(logs)
    )


def _visit(number: int, log: float) -> Visit:
    return Visit(number, 0, (1e-3 * math.exp(log),) * 3, (), (0, 0, 0))


def _change(ratio: stats.Interval) -> Change:
    return Change(1.0, ratio.estimate, ratio.estimate, ratio.low, ratio.high)


# --------------------------------------------------------------------------------------------
# the bars


@dataclass(frozen=True, slots=True)
class Bar:
    """One question to the simulator, its answer, and whether that is good enough."""

    question: str
    tries: int
    found: str
    wanted: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Size:
    """How much is simulated: worlds of each quiet kind (30 nights x 40 series), and of a change."""

    quiet: int
    changes: int
    series: int = 40


FULL = Size(quiet=10, changes=200, series=40)
SMALL = Size(quiet=1, changes=20, series=40)


def bars(size: Size, show: Callable[[float, str], None] = lambda _s, _l: None) -> Iterator[Bar]:
    """Yield the answers: false alarms by kind of quiet world, then what is caught, and when."""
    total = len(QUIET) + 3
    for place, kind in enumerate(QUIET):
        show(place / total, f"nights of the kind {kind}")
        worlds = [live(World(kind, series=size.series), seed) for seed in range(size.quiet)]
        yield _quiet(kind, worlds)
    # In a world with a change, few other series: they add nothing but time.
    few = dataclasses.replace(World("step", 0.05), series=8, nights=11)
    show(len(QUIET) / total, "a step of 5 %")
    yield _caught(few, size.changes, 0, 0.95)
    show((len(QUIET) + 1) / total, "a step of 3 %")
    yield _caught(dataclasses.replace(few, size=0.03, nights=13), size.changes, 2, 0.90)
    show((len(QUIET) + 2) / total, "a creep of 2 %")
    slow = dataclasses.replace(few, kind="creep", size=0.02, nights=20)
    yield _caught(slow, size.changes, 9, 0.80)


def _quiet(kind: Kind, worlds: Sequence[Lifetime]) -> Bar:
    alarms = [lived.false for lived in worlds]
    segments = {lived.segments for lived in worlds}
    world = worlds[0].world
    whole = segments == ({2} if kind == "fingerprint" else {1})
    sentence = f"{sum(alarms)} false alarms in all, at most {max(alarms)} in one"
    if kind == "fingerprint":
        sentence += "; a new segment each time" if whole else "; NOT a new segment each time"
    return Bar(
        f"quiet, {_WORDS[kind]}: {world.nights} nights x {world.series} series",
        len(worlds),
        sentence,
        "at most 1 in each",
        max(alarms) <= 1 and whole,
    )


_WORDS: Mapping[Kind, str] = {
    "none": "nothing happens",
    "outlier": "one session 20 % off",
    "drift": "the machine drifts (AR 1)",
    "mode": "processes fall into a slow mode",
    "fingerprint": "another kernel, 30 % slower",
    "step": "slower from one night on",
    "creep": "slower night by night",
}


def _caught(world: World, tries: int, within: int, share: float) -> Bar:
    lives = [live(world, seed) for seed in range(tries)]
    hits = sum(t.after is not None and t.after <= within for t in lives)
    when = "the same night" if not within else f"within {within + 1} nights"
    what = "creeping to +" if world.kind == "creep" else "+"
    return Bar(
        f"{what}{world.size:.0%} caught {when}",
        tries,
        f"{hits / tries:.1%}",
        f"at least {share:.0%}",
        hits >= share * tries,
    )
