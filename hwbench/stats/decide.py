"""From intervals to conclusions: verdicts, when to stop, which is out, which is on the front.

Show at 95 %, decide at 99 % (Holm over the comparisons decided), eliminate at 99.9 %. Looks stop
on the width alone: stopping as soon as a difference is "significant" gives 30-37 % false alarms.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hwbench.stats.estimate import Interval

Better = Literal["lower", "higher"]

_FUTILE = 0.05
_LEAST = 1e-12


class Verdict(enum.StrEnum):
    """What an interval of a ratio says about the candidate."""

    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"
    AMBIGUOUS = "ambiguous"


class Look(enum.StrEnum):
    """What a look at a candidate's interval leads to."""

    GO_ON = "go on"
    PRECISE = "precise"
    ELIMINATED = "eliminated"
    FUTILE = "futile"


def verdict(interval: Interval, margin: float) -> Verdict:
    """Return what the interval of a ratio says, given the margin that matters (0.02: 2 %).

    EQUIVALENT when it lies within the margin, 1/(1+margin) to 1+margin; else FASTER or SLOWER
    when it leaves out 1; else AMBIGUOUS. So FASTER means faster for sure, not beyond the margin
    for sure: `beyond` asks that.
    """
    edge = 1.0 + margin
    if interval.low >= 1.0 / edge and interval.high <= edge:
        return Verdict.EQUIVALENT
    if interval.high < 1.0:
        return Verdict.FASTER
    if interval.low > 1.0:
        return Verdict.SLOWER
    return Verdict.AMBIGUOUS


def beyond(interval: Interval, margin: float) -> bool:
    """Return whether the candidate is slower by more than the margin, by its whole interval."""
    return interval.low > 1.0 + margin


def verdicts(
    intervals: Mapping[str, Interval], margin: float, confidence: float = 0.99
) -> dict[str, Verdict]:
    """Return a verdict a name, with Holm's correction over all of them.

    Intervals need an ``error`` (those of `ratio` have one from 2 rounds on, else AMBIGUOUS).
    """
    names = list(intervals)
    adjusted = dict(zip(names, holm([p_value(intervals[n]) for n in names]), strict=True))
    corrected = {}
    for name, interval in intervals.items():
        known = interval.error is not None
        uncorrected = verdict(interval.at(confidence), margin) if known else Verdict.AMBIGUOUS
        differs = uncorrected in (Verdict.FASTER, Verdict.SLOWER)
        unsure = differs and adjusted[name] > 1.0 - confidence
        corrected[name] = Verdict.AMBIGUOUS if unsure else uncorrected
    return corrected


def p_value(interval: Interval, against: float = 1.0) -> float:
    """Return the two-sided p-value of the true ratio being `against`; 1 where it is unknown."""
    from scipy.special import ndtr, stdtr

    if interval.error is None or interval.freedom is None:
        return 1.0
    distance = abs(math.log(interval.estimate / against))
    if interval.error == 0.0:
        return 0.0 if distance else 1.0
    t = -distance / interval.error
    return float(2.0 * (ndtr(t) if math.isinf(interval.freedom) else stdtr(interval.freedom, t)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the p-values adjusted for their number, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6, 1979.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = highest
    return tuple(adjusted)


# --------------------------------------------------------------------------------------------
# looks


def look(
    now: Interval, before: Interval | None, half_width: float, *, eliminated: bool = False
) -> Look:
    """Return what to do with a candidate at a look; ``before`` is its interval at the last one.

    ELIMINATED if the caller found it out (`eliminated`); PRECISE when the half-width is at most
    the bound; FUTILE when it fell by less than 5 % since the last look, so that the noise and not
    the number of rounds is the limit (print `detectable`). Where the estimate lies plays no part.
    """
    if eliminated:
        return Look.ELIMINATED
    if now.half_width <= half_width:
        return Look.PRECISE
    if before is not None and before.bounded:
        fell = 1.0 - now.half_width / before.half_width
        if fell < _FUTILE:
            return Look.FUTILE
    return Look.GO_ON


def eliminated(
    bounds: Mapping[str, Mapping[str, Interval]], better: Mapping[str, Better]
) -> dict[str, str]:
    """Return which are out, and what beats them: worse on every axis of ``better``.

    ``bounds`` holds the 99.9 % intervals by candidate and axis; for a number that is exact both
    bounds are equal. Without an interval on some axis a candidate neither beats nor is beaten.
    """
    known = {n: axes for n, axes in bounds.items() if all(a in axes for a in better)}
    out = {}
    for loser, losing in known.items():
        for winner, winning in known.items():
            if better and all(
                winning[axis].high < losing[axis].low
                if way == "lower"
                else winning[axis].low > losing[axis].high
                for axis, way in better.items()
            ):
                out[loser] = winner
                break
    return out


# --------------------------------------------------------------------------------------------
# front and power


def front_probability(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    better: Mapping[str, Better],
    rng: np.random.Generator,
    *,
    bounds: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    draws: int = 1000,
) -> dict[str, float]:
    """Return each candidate's probability of being on the front if all were measured again, 0..1.

    ``values`` holds, by candidate and axis, one positive number a generation (in the order of
    the generations, the same number of them everywhere) or a single one that is taken as exact.
    Generations are resampled together for all candidates, for what they shared is shared in
    every draw; deviations are stretched by sqrt(n/(n-1)), because the resampled mean of few
    generations varies too little. ``bounds`` holds the intervals (low, high) of those that have
    one: each moves with its mean, and in each draw the front is what it is for the figures as
    they are, by intervals that do not touch and by `struck`. A candidate without a value on an
    axis has no probability and is left out. Raises `ValueError` when generations do not line up.
    """
    names = [n for n, axes in values.items() if all(len(axes.get(a, ())) for a in better)]
    lengths = {len(values[n][a]) for n in names for a in better} - {1}
    if len(lengths) > 1:
        raise ValueError(f"generations do not line up: {sorted(lengths)} values an axis")
    generations = lengths.pop() if lengths else 1
    whole = [_axis(names, values, axis, way, bounds or {}) for axis, way in better.items()]
    on_front = np.zeros(len(names))
    for _ in range(draws):
        chosen = rng.integers(generations, size=generations)
        on_front += ~struck(_beats([axis.drawn(chosen) for axis in whole]))
    return dict(zip(names, (on_front / draws).tolist(), strict=True))


def struck(beats: np.ndarray) -> np.ndarray:
    """Return which are beaten by one that stands: shape (n,), from ``beats[a, b]``: a beats b.

    Beating beyond the noise is not transitive, so what only a struck one beats stands (the grounded
    set of Dung 1995); those in an endless circle stay.
    """
    stands = np.zeros(len(beats), dtype=bool)
    out = np.zeros(len(beats), dtype=bool)
    while True:
        unbeaten = ~(stands | out) & ~(beats & ~out[:, None]).any(axis=0)
        if not unbeaten.any():
            return out
        stands |= unbeaten
        out |= (beats & stands[:, None]).any(axis=0)


def detectable(interval: Interval, *, confidence: float = 0.99, power: float = 0.9) -> float:
    """Return the smallest relative effect that is found with that power, at this noise.

    0.02 reads as "2 % slower would be found 9 times of 10"; from the non-central t, with the
    interval's error and freedom. Infinite where those are unknown.
    """
    from scipy.special import nctdtrinc, ndtri, stdtrit

    if interval.error is None or interval.freedom is None:
        return math.inf
    p = (1.0 + confidence) / 2.0
    if math.isinf(interval.freedom):
        shift = float(ndtri(p) + ndtri(power))
    else:
        critical = stdtrit(interval.freedom, p)
        shift = float(nctdtrinc(interval.freedom, 1.0 - power, critical))
    return math.expm1(shift * interval.error)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of all candidates, lower being better: means, how far they reach, deviations.

    Shapes (n,), (n,), (n,) and (n, generations or 1); ``exact`` says which have no interval.
    """

    means: np.ndarray
    down: np.ndarray
    up: np.ndarray
    exact: np.ndarray
    deviations: np.ndarray

    def drawn(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which is better than which, and which is worse, in one draw: two (n, n) masks."""
        width = self.deviations.shape[1]
        moved = self.deviations[:, chosen].mean(axis=1) if width > 1 else self.deviations[:, 0]
        points = self.means + moved
        low, high = points - self.down, points + self.up
        touch = (low[:, None] <= high[None, :]) & (low[None, :] <= high[:, None])
        differ = ~touch | self.exact[:, None] | self.exact[None, :]
        less = points[:, None] < points[None, :]
        return less & differ, less.T & differ


def _axis(
    names: Sequence[str],
    values: Mapping[str, Mapping[str, Sequence[float]]],
    axis: str,
    way: Better,
    bounds: Mapping[str, Mapping[str, tuple[float, float]]],
) -> _Axis:
    sign = 1.0 if way == "lower" else -1.0
    length = max((len(values[n][axis]) for n in names), default=1)
    # What is drawn are ratios, hence logarithms; what is exact may well be 0 or less.
    scale: Callable[[float], float] = _log if length > 1 else float
    rows = np.empty((len(names), length))
    down, up = np.zeros(len(names)), np.zeros(len(names))
    exact = np.ones(len(names), dtype=bool)
    for row, name in enumerate(names):
        rows[row] = [scale(number) for number in values[name][axis]]
        ends = bounds.get(name, {}).get(axis)
        if ends is not None:
            mean = float(rows[row].mean())
            reach = mean - scale(ends[0]), scale(ends[1]) - mean
            down[row], up[row] = reach if way == "lower" else reach[::-1]
            exact[row] = False
    means = rows.mean(axis=1)
    stretch = math.sqrt(length / (length - 1)) if length > 1 else 1.0
    return _Axis(sign * means, down, up, exact, sign * (rows - means[:, None]) * stretch)


def _beats(axes: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return which is nowhere worse and somewhere better than which: shape (n, n)."""
    better = np.logical_or.reduce([b for b, _ in axes])
    worse = np.logical_or.reduce([w for _, w in axes])
    return np.asarray(better & ~worse)


def _log(number: float) -> float:
    return math.log(max(number, _LEAST))
