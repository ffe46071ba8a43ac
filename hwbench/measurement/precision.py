"""How well a sitting knows its ratios: the widths, whether they are narrow enough, in words."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from hwbench import stats
from hwbench.errors import StageError
from hwbench.measurement.generation import REFERENCE, SHADOW
from hwbench.records import Process

SETTLED = 5
"""Generations from which on a sitting may stop for being precise."""
_DECIDE = 0.99
_PRECISE = 0.01


def ratios(processes: Sequence[Process]) -> Mapping[str, stats.Interval]:
    """Return the 99 % interval of the ratio to R of each candidate, by artifact, and of S.

    S is named by its role, for its artifact is R's. Who never met R is left out.
    """
    reference = [p for p in processes if p.role == REFERENCE]
    groups: dict[str, list[Process]] = {}
    for process in processes:
        if process.role != REFERENCE:
            groups.setdefault(_name(process), []).append(process)
    spread = stats.pooled_spread(groups.values(), reference)
    found = {}
    for name, group in groups.items():
        try:
            found[name] = stats.ratio(group, reference, _DECIDE, spread)
        except StageError:  # not one round that both came through clean
            continue
    return found


def settled(processes: Sequence[Process], out: Collection[str], half_width: float) -> bool:
    """Return whether everyone, who is `out` apart, is known to ``half_width`` at 99 %.

    By the widths alone, and from `SETTLED` generations on: where the estimates lie plays no part.
    """
    names = {_name(p) for p in processes if p.role != REFERENCE} - set(out)
    counts = Counter(_name(p) for p in processes)
    if any(counts[name] < SETTLED for name in names):
        return False
    found = ratios(processes)
    return all(n in found and found[n].half_width <= half_width for n in names)


def words(processes: Sequence[Process]) -> str:
    """Return how narrow the intervals of those are who were measured throughout, or nothing."""
    counts = Counter(p.artifact for p in processes if p.role == "candidate")
    most = max(counts.values(), default=0)
    found = ratios(processes)
    whole = sorted(found[n].half_width for n in found if n != SHADOW and counts[n] == most)
    if not whole or math.isinf(whole[-1]):
        return ""
    return f"precision after {most} generations: {summary(whole)}"


def summary(half_widths: Sequence[float]) -> str:
    """Return the spread of some half-widths of 99 % intervals: ``30 candidates, ±0.4 % ...``."""
    within = sum(w <= _PRECISE for w in half_widths)
    return (
        f"{len(half_widths)} candidates known to ±{statistics.median(half_widths):.2%} (median, "
        f"99 %), the widest to ±{max(half_widths):.2%}; {within} within {_PRECISE:.0%}"
    )


def worst_effect(processes: Sequence[Process], names: Collection[str]) -> float | None:
    """Return the smallest effect that is detectable with the noisiest of some artifacts."""
    chosen = [p for p in processes if p.role == REFERENCE or _name(p) in names]
    effects = [stats.detectable(ratio) for ratio in ratios(chosen).values()]
    return max((effect for effect in effects if math.isfinite(effect)), default=None)


def _name(process: Process) -> str:
    return SHADOW if process.role == SHADOW else process.artifact
