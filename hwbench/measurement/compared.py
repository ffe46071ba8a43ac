"""One artifact beside another of the same sitting: ratios, intervals, verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hwbench import stats
from hwbench.errors import StageError
from hwbench.measurement.values import in_turn, joules, once, values
from hwbench.records import (
    METRICS,
    CompiledModel,
    Measurement,
    MemoryReading,
    Process,
    Sitting,
    Source,
    TargetProfile,
    Value,
)

DECIDE = 0.99
METRICS_COMPARED = (
    "latency_p50",
    "load_time",
    "first_inference",
    "peak_memory",
    "process_memory",
    "energy",
    "artifact_bytes",
)
_PAGES = 128 << 10
"""Peaks of memory repeat to about this many bytes: less is no difference."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of both: the ratio B over A, its 99 % interval where there is one, the verdict.

    ``verdict`` is one of `stats.Verdict` (for memory and sizes FASTER reads as less), or empty
    where nothing can be told, with the ``reason``. ``detectable`` is the smallest effect that
    would have been found 9 times of 10. ``worse``: beyond the margin, by the whole interval.
    """

    metric: str
    a: Value
    b: Value
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    detectable: float | None = None
    worse: bool = False
    reason: str = ""


def rows(
    sitting: Sitting,
    first: CompiledModel,
    second: CompiledModel,
    target: TargetProfile,
    margin: float,
) -> tuple[Row, ...]:
    """Return the rows of `second` beside `first`, which is the sitting's reference.

    Of two artifacts that are the same to the byte, the sitting's S stands for the second.
    """
    mine = next(m for m in sitting.measurements if m.artifact == second.digest)
    if second.digest == first.digest:
        mine = dataclasses.replace(mine, latency=sitting.shadow.latency)
    ours = values(sitting.reference, sitting, first, target)
    theirs = values(mine, sitting, second, target)
    timed = _timed(sitting, mine) | _read(sitting.reference, mine, ours, theirs)
    said = stats.verdicts(timed, margin, DECIDE)
    found = []
    for metric in METRICS_COMPARED:
        a, b = ours[metric], theirs[metric]
        if metric in timed and not _few_pages(metric, a, b):
            found.append(_with_interval(metric, a, b, timed[metric], said[metric], margin))
        else:
            found.append(exact(metric, a, b, margin))
    return tuple(found)


def _timed(sitting: Sitting, mine: Measurement) -> dict[str, stats.Interval]:
    """Return the ratios that have one figure a process or more."""
    views: Mapping[str, Callable[[Process], Process]] = {
        "latency_p50": lambda p: p,
        "load_time": lambda p: once(p, p.load),
        "first_inference": lambda p: once(p, p.first),
    }
    found = {}
    for metric, view in views.items():
        b, a, s = (
            [view(p) for p in who]
            for who in (mine.latency, sitting.reference.latency, sitting.shadow.latency)
        )
        try:
            found[metric] = stats.ratio(b, a, DECIDE, stats.pooled_spread([b, s], a))
        except StageError:  # never in one round together: the exact path says what is missing
            continue
    return found


def _read(
    reference: Measurement,
    mine: Measurement,
    ours: Mapping[str, Value],
    theirs: Mapping[str, Value],
) -> dict[str, stats.Interval]:
    """Return the ratios of memory and energy where both were read several times, in turn."""
    figures: Mapping[str, Callable[[Measurement], list[float]]] = {
        "energy": joules,
        "process_memory": lambda m: [float(r.after_runs) for r in _peaks(m)],
        "peak_memory": lambda m: [float(r.share) for r in _peaks(m) if r.share is not None],
    }
    found = {}
    for metric, of in figures.items():
        if (ours[metric].source, ours[metric].tier) != (theirs[metric].source, theirs[metric].tier):
            continue
        a, b = (in_turn(of(m)) for m in (reference, mine))
        if min(len(a), len(b)) > 1 and all(p.visits[0].wall[0] > 0 for p in (*a, *b)):
            found[metric] = stats.ratio(b, a, DECIDE, stats.pooled_spread([b], a))
    return found


def _peaks(measurement: Measurement) -> list[MemoryReading]:
    whole = (measurement.memory, *measurement.memory_again)
    return [reading for reading in whole if reading is not None]


def _few_pages(metric: str, a: Value, b: Value) -> bool:
    """Whether two peaks are too near each other to be told apart, however often they are read."""
    if METRICS[metric].unit != "B" or a.value is None or b.value is None:
        return False
    return abs(b.value - a.value) <= _PAGES


def _with_interval(
    metric: str, a: Value, b: Value, ratio: stats.Interval, said: stats.Verdict, margin: float
) -> Row:
    effect = stats.detectable(ratio, confidence=DECIDE)
    return Row(
        metric,
        a,
        b,
        ratio.estimate,
        ratio.low if ratio.bounded else None,
        ratio.high if ratio.bounded else None,
        said.value,
        effect if effect < 10 else None,
        stats.beyond(ratio, margin),
    )


def exact(metric: str, a: Value, b: Value, margin: float) -> Row:
    """Return the row of a metric with one reading each: no interval, and for energy no verdict."""
    if a.value is None or b.value is None:
        return Row(metric, a, b, reason=b.reason or a.reason)
    if a.source is not b.source or a.tier != b.tier:
        return Row(metric, a, b, reason="from two kinds of source: not to be compared")
    ratio = b.value / a.value if a.value else None
    if ratio is None:
        return Row(metric, a, b, reason="A's figure is 0: there is no ratio")
    if a.source is not Source.STATIC and METRICS[metric].unit != "B":
        return Row(metric, a, b, ratio, reason="one window each: no interval")
    small = a.source is not Source.STATIC and abs(b.value - a.value) <= _PAGES
    if small or 1 / (1 + margin) <= ratio <= 1 + margin:
        return Row(metric, a, b, ratio, verdict=stats.Verdict.EQUIVALENT.value)
    worse = ratio > 1
    said = stats.Verdict.SLOWER if worse else stats.Verdict.FASTER
    return Row(metric, a, b, ratio, verdict=said.value, worse=worse)


def shown(found: Sequence[Row]) -> list[Row]:
    """Return the rows that say something: both sides missing for good is not shown."""
    return [r for r in found if r.a.value is not None or r.b.value is not None]
