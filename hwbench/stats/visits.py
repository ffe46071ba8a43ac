"""From raw calls to one value a visit, and the rounds in which two candidates meet."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from hwbench.records import Process, Visit

_FEWEST_CLEAN = 3


def visit_value(visit: Visit) -> tuple[float, bool]:
    """Return a visit's time in seconds per call, and whether the visit was clean.

    The median of the calls without an involuntary context switch. With fewer than 3 of those it
    is the 25th percentile of all calls (preemption only ever adds time) and the visit is dirty.
    Raises `ValueError` for a visit without calls.
    """
    if not visit.wall:
        raise ValueError("a visit without calls has no value")
    pairs = zip(visit.wall, visit.switches, strict=True)
    clean = [seconds for seconds, switches in pairs if switches == 0]
    if len(clean) >= _FEWEST_CLEAN:
        return _quantile(clean, 0.5), True
    return _quantile(visit.wall, 0.25), False


def paired(candidate: Sequence[Process], reference: Sequence[Process]) -> dict[int, list[float]]:
    """Return ln(v_candidate / v_reference) by generation, of the rounds both have."""
    reference_values = visit_values(reference)
    groups = {}
    for generation, values in sorted(visit_values(candidate).items()):
        others = reference_values.get(generation, {})
        logs = [math.log(values[r] / others[r]) for r in sorted(values.keys() & others.keys())]
        if logs:
            groups[generation] = logs
    return groups


def quietest(candidate: Sequence[Process], reference: Sequence[Process]) -> dict[int, float]:
    """Return ln(v_candidate / v_reference) by generation: the least of each, of common rounds."""
    candidate_values, reference_values = visit_values(candidate), visit_values(reference)
    logs = {}
    for generation in sorted(candidate_values.keys() & reference_values.keys()):
        rounds = candidate_values[generation].keys() & reference_values[generation].keys()
        if rounds:
            best = min(candidate_values[generation][r] for r in rounds)
            reference_best = min(reference_values[generation][r] for r in rounds)
            logs[generation] = math.log(best / reference_best)
    return logs


def visit_values(processes: Sequence[Process]) -> Mapping[int, dict[int, float]]:
    """Return the visit values by generation and round; a clock that stood still is no value."""
    values: dict[int, dict[int, float]] = defaultdict(dict)
    for process in processes:
        for visit in process.visits:
            value = visit_value(visit)[0] if visit.wall else math.nan
            if 0.0 < value < math.inf:
                values[process.generation][visit.round] = value
    return values


def _quantile(values: Sequence[float], q: float) -> float:
    """Return a quantile with linear interpolation; plain Python beats numpy on a visit."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    first = math.floor(place)
    last = min(first + 1, len(ordered) - 1)
    return ordered[first] + (place - first) * (ordered[last] - ordered[first])
