"""What one session says about one metric, and what two sessions of a night say together."""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.records import METRICS, Change, Floor, Status

_CHANCE = 0.01
"""Accuracy: what this probable by chance is no change."""
_SCATTERS = 4.0
"""One reading a session, no interval: beyond so many times what the nights scatter by."""


FLOORS: Mapping[str, Floor] = {
    "latency_p50": Floor(0.01),
    "load_time": Floor(0.15, 2e-3),
    "peak_memory": Floor(0.05, 256 << 10),
    "process_memory": Floor(0.03, 1 << 20),
    "energy": Floor(0.05),
    "artifact_bytes": Floor(0.01, 1024),
    "compile_time": Floor(0.5, 2.0),
    "top1": Floor(0.01),
    "score": Floor(0.01),
}
"""What is watched, and from where on it matters."""


def judge(metric: str, change: Change, floor: Floor, scatter: float | None = None) -> Status:
    """Return what one session says: FINE, WORSE, BETTER, LOST or MISSING.

    With an interval (99 %) the whole of it must lie beyond the floor. Without one the figure
    must; where `scatter` is given (the standard deviation of the logarithm of earlier nights'
    ratios) also beyond 4 times that.
    """
    if change.before is None or change.now is None:
        return Status.MISSING if change.before is None else Status.LOST
    kind = METRICS[metric]
    if kind.better == "higher":
        return _judge_score(change.before, change.now, change, floor, kind.unit == "fraction")
    if change.ratio is None:
        return Status.MISSING
    return _judge_ratio(change, change.ratio, abs(change.now - change.before), floor, scatter)


def _judge_ratio(
    change: Change, ratio: float, moved: float, floor: Floor, scatter: float | None
) -> Status:
    share = floor.share if scatter is None else max(floor.share, _SCATTERS * scatter)
    if moved <= floor.least:
        return Status.FINE
    low = ratio if change.low is None else change.low
    high = ratio if change.high is None else change.high
    if low > 1.0 + share:
        return Status.WORSE
    return Status.BETTER if high < 1.0 / (1.0 + share) else Status.FINE


def _judge_score(before: float, now: float, change: Change, floor: Floor, absolute: bool) -> Status:
    moved = now - before
    least = floor.share if absolute else floor.share * abs(before)
    by_chance = change.chance is not None and change.chance > _CHANCE
    if abs(moved) <= least or by_chance:
        return Status.FINE
    return Status.WORSE if moved < 0 else Status.BETTER


def conclude(first: Status, again: Status | None) -> Status:
    """Return what a night says: an alarm only where a fresh second session agrees.

    ``again`` is None where there was no second session: then what would be an alarm is
    UNCONFIRMED.
    """
    if first not in (Status.WORSE, Status.LOST):
        return first
    return first if again is first else Status.UNCONFIRMED


def paired_chance(only_before: int, only_now: int) -> float:
    """Return how probable it is by chance that two models' mistakes differ so much.

    ``only_before`` samples were right with the pinned model alone, ``only_now`` with tonight's
    alone. The exact test of McNemar, "Note on the sampling error of the difference between
    correlated proportions or percentages", Psychometrika 12, 1947.
    """
    from scipy.stats import binomtest

    total = only_before + only_now
    return 1.0 if not total else float(binomtest(only_before, total).pvalue)
