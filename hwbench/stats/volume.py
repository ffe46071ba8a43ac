"""The hypervolume: how much of the objective space a front rules over, as one number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hwbench.records import METRICS, Result

Costs = tuple[float, ...]
WORST = 2.0
"""Relative costs from here on count nothing: twice the reference's time, memory, errors."""


def hypervolume(points: Sequence[Costs], reference: Costs) -> float:
    """Return the volume that `points` dominate below `reference`; less is better on every axis.

    Exact, by exclusive volumes: While, Bradstreet & Barone, "A fast way of calculating exact
    hypervolumes", IEEE TEC 16, 2012 (WFG). Points that are not below the reference count 0.
    """
    inside = [p for p in points if all(a < b for a, b in zip(p, reference, strict=True))]
    return _volume(nondominated(inside), reference)


def nondominated(points: Sequence[Costs]) -> list[Costs]:
    """Return the points that no other dominates, each once, sorted."""
    unique = sorted(set(points))
    return [p for p in unique if not any(q != p and _covers(q, p) for q in unique)]


def _covers(a: Costs, b: Costs) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))


def _volume(front: Sequence[Costs], reference: Costs) -> float:
    total = 0.0
    for index, point in enumerate(front):
        # What the later points rule over as well is theirs.
        worse = [tuple(map(max, point, other)) for other in front[index + 1 :]]
        box = math.prod(r - x for x, r in zip(point, reference, strict=True))
        total += box - _volume(nondominated(worse), reference)
    return total


def costs_of(
    result: Result, reference: Result, objectives: Sequence[str]
) -> dict[str, float] | None:
    """Return a result's costs by objective, relative to the reference: 1 is as good, less better.

    A metric where lower is better is divided by the reference's; a share of right answers turns
    into the ratio of errors; any other score into 1 plus the loss as a share of the reference's.
    None when a number is missing: such a candidate was tried in vain. An objective that the
    reference lacks itself is left out for all.
    """
    costs = {}
    for metric in objectives:
        base = reference.number(metric)
        if base is None:
            continue
        figure = result.number(metric)
        if figure is None or result.failure is not None:
            return None
        if METRICS[metric].better == "lower":
            costs[metric] = figure / base if base else 1.0 + figure
        elif METRICS[metric].unit == "fraction":
            # Three right answers of a million may be missing: nothing is divided by zero.
            costs[metric] = (1 - figure + 1e-3) / (1 - base + 1e-3)
        else:
            costs[metric] = 1 + (base - figure) / (abs(base) or 1.0)
    return costs


def ruled(costs: Sequence[Mapping[str, float]]) -> float:
    """Return the hypervolume of relative costs below twice the reference's, 0 where none is."""
    if not costs:
        return 0.0
    names = list(costs[0])
    return hypervolume([tuple(c[name] for name in names) for c in costs], (WORST,) * len(names))
