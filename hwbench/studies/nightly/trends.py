"""What a report draws of the history: series with their segments, and the A/A rate."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from hwbench.records import Change, Night, ShadowRate, Status, Trend, TrendPoint
from hwbench.regress import change_points, pooled
from hwbench.studies.nightly.history import History

NIGHTS = 90
"""The newest nights are drawn; the others stay in the history."""
_ALWAYS = "latency_p50"


def trends(night: Night, past: History) -> tuple[Trend, ...]:
    """Return the latency of every candidate of the night, and what else is not fine."""
    rows = past.readings
    rows = rows[rows.number > night.number - NIGHTS]
    drawn: list[Trend] = []
    for entry in night.pairs:
        readings = rows[(rows.target == entry.target) & (rows.recipe == entry.recipe)]
        loud = {(r.candidate, r.metric) for r in entry.readings if r.status is not Status.FINE}
        names = {r.candidate for r in entry.readings}
        shown = readings[(readings.metric == _ALWAYS) | readings.metric.isin({m for _, m in loud})]
        floors = {(r.candidate, r.metric): r.floor for r in entry.readings}
        for key, group in shown.groupby(["candidate", "metric"], sort=True):
            candidate, metric = str(key[0]), str(key[1])
            if candidate not in names or (metric != _ALWAYS and (candidate, metric) not in loud):
                continue
            points = tuple(_points(group))
            drawn.append(
                Trend(
                    entry.target,
                    entry.recipe,
                    candidate,
                    metric,
                    floors.get((candidate, metric), 0.01),
                    points,
                    _changes(points),
                )
            )
    alarms = {(p.target, p.recipe, r.candidate, r.metric) for p, r in night.alarms}
    drawn.sort(key=lambda t: (t.target, t.recipe, t.candidate, t.metric) not in alarms)
    return tuple(drawn)


def shadow_rate(past: History) -> ShadowRate:
    """Return how often the pinned dense model was told from its own copy, over all sessions."""
    sessions = [s for row in past.pairs.get("shadow", ()) for s in row if s["ratio"] is not None]
    off = sum((s["low"] or 0) > 1 or (s["high"] or 2) < 1 for s in sessions)
    gaps = [abs(s["ratio"] - 1) for s in sessions]
    return ShadowRate(len(sessions), off, statistics.median(gaps) if gaps else None)


def _points(group: Any) -> Iterator[TrendPoint]:
    plain = group.astype(object).where(group.notna(), None)
    for row in plain.itertuples(index=False):
        first = Change(row.before, row.now, row.ratio, row.low, row.high)
        again = None
        if row.again_ratio is not None:
            again = Change(None, None, row.again_ratio, row.again_low, row.again_high)
        both = pooled(first, again)
        yield TrendPoint(
            int(row.number), row.started, row.commit, row.segment, both.ratio, both.low, both.high,
            Status(row.status),
        )  # fmt: skip


def _changes(points: Sequence[TrendPoint]) -> tuple[int, ...]:
    """Return the indices where the level of the newest segment moved."""
    if not points:
        return ()
    last = points[-1].segment
    there = [i for i, p in enumerate(points) if p.segment == last and p.ratio is not None]
    ratios = [r for i in there if (r := points[i].ratio) is not None]
    return tuple(there[i] for i in change_points(ratios))
