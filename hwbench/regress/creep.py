"""Slow change over many nights: change points on the series of ratios to the pinned baseline.

Never on raw times: those drift with the machine, and on drifting series every detector cries
wolf. A ratio of two artifacts measured in one session does not drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwbench.records import Change
from hwbench.stats import t_quantile

SIDE = 4
"""Nights that a level needs on each side of a change."""
_LONGEST = 60
_LEAST_NOISE = 5e-4
_DECIDE = 0.99
_NORMAL = 1.4826  # median absolute deviation to standard deviation, of a normal distribution


@dataclass(frozen=True, slots=True)
class Shift:
    """The level a series has come to: as a ratio, its 99 % bounds, and the index it begins at."""

    level: float
    low: float
    high: float
    since: int


def pooled(first: Change, again: Change | None) -> Change:
    """Return what both sessions of a night show together, as a ratio with its interval."""
    both = [c for c in (first, again) if c is not None and c.ratio is not None and c.ratio > 0]
    if not both:
        return Change()
    logs = [math.log(c.ratio) for c in both if c.ratio is not None]
    mean = sum(logs) / len(logs)
    halves = [h for c in both if (h := _half(c)) is not None]
    if len(halves) < len(both):
        return Change(ratio=math.exp(mean))
    half = math.sqrt(sum(h * h for h in halves)) / len(halves)
    ends = math.exp(mean - half), math.exp(mean + half)
    return Change(first.before, first.now, math.exp(mean), *ends)


def _half(change: Change) -> float | None:
    if not change.low or not change.high or not math.isfinite(change.high):
        return None
    return (math.log(change.high) - math.log(change.low)) / 2.0


def crept(nights: Sequence[Change], floor: float) -> Shift | None:
    """Return what `creep` says of nights (`pooled`); those without a ratio are left out.

    The index in it counts all nights.
    """
    there = [i for i, c in enumerate(nights) if c.ratio is not None]
    ratios = [c.ratio for c in nights if c.ratio is not None]
    shift = creep(ratios, [_half(nights[i]) or 0.0 for i in there], floor)
    return None if shift is None else replace(shift, since=there[shift.since])


def creep(ratios: Sequence[float], halves: Sequence[float], floor: float) -> Shift | None:
    """Return the level of the newest nights if it lies beyond the floor, else None.

    ``halves`` are half the widths of the nights' own 99 % intervals on the logarithm (0: none).
    The newest nights are those since the last change point. Everything begins at 1, the pinned
    artifact beside itself, so that a series without a change point counts from its beginning.
    The level must lie beyond the floor, and its 99 % bound beyond half of it: several nights that
    agree are worth more than one.
    """
    if len(ratios) < SIDE or np.median(ratios[-SIDE:]) <= 1.0 + floor:
        # The newest nights are not beyond the floor, whatever came before.
        return None
    first = max(len(ratios) - _LONGEST, 0)
    ratios, halves = ratios[first:], halves[first:]
    points = change_points(ratios)
    # A ramp has no one point of change: where none is found, or an early one, the newest nights
    # must say the same by themselves.
    for start in (points[-1] if points else 0, len(ratios) - SIDE):
        shift = _level(ratios, halves, start)
        if shift.low > 1.0 + floor / 2:
            return replace(shift, since=first + start)
    return None


def _level(ratios: Sequence[float], halves: Sequence[float], start: int) -> Shift:
    """Return the level of the nights from `start` on, with its 99 % bounds."""
    logs = np.log(ratios[start:])
    # Few nights may agree by luck: all nights say how much one differs from the next, and what
    # each of them could not tell.
    spread = max(noise(ratios) or 0.0, float(np.std(logs, ddof=1)) if len(logs) > 2 * SIDE else 0.0)
    half = t_quantile(_DECIDE, len(ratios) - 1.0) * spread / math.sqrt(len(logs))
    half = max(half, math.sqrt(float(np.mean(np.square(halves[start:]))) / len(logs)))
    mean = float(np.mean(logs))
    return Shift(math.exp(mean), math.exp(mean - half), math.exp(mean + half), start)


def change_points(ratios: Sequence[float]) -> tuple[int, ...]:
    """Return the indices at which the level of a series changes.

    PELT with an l1 cost and a penalty of 2 ln n on the logarithms, in units of the series' own
    noise, at least 4 points a side. Killick, Fearnhead & Eckley, "Optimal detection of
    changepoints with a linear computational cost", JASA 107, 2012; by ruptures.
    """
    if len(ratios) < 2 * SIDE:
        return ()
    import ruptures

    logs = np.log(np.asarray(ratios, dtype=np.float64))
    scaled = logs / (noise(ratios) or _LEAST_NOISE)
    search = ruptures.Pelt(model="l1", min_size=SIDE, jump=1).fit(scaled)
    return tuple(int(i) for i in search.predict(pen=2.0 * math.log(len(logs)))[:-1])


def noise(ratios: Sequence[float]) -> float | None:
    """Return by how much a night differs from the next for no reason; None from fewer than 4.

    The standard deviation of the logarithm, robustly from differences of neighbours: a step or a
    slow rise does not count as noise.
    """
    if len(ratios) < SIDE:
        return None
    steps = np.diff(np.log(np.asarray(ratios, dtype=np.float64)))
    spread = _NORMAL * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2.0)
    return max(spread, _LEAST_NOISE)
