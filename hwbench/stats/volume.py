"""The hypervolume: how much of the objective space a front rules over, as one number."""

from __future__ import annotations

import math
from collections.abc import Sequence

Costs = tuple[float, ...]


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
