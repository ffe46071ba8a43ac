"""Candidates as points that a sampler can walk on, and results as costs that it can be told."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.records import METRICS, Candidate, Point, Result


def points(candidates: Sequence[Candidate]) -> tuple[Point, ...]:
    """Return each candidate by its axes: pattern, criterion, scope, sparsity, schedule, ..."""
    return tuple(_point(candidate) for candidate in candidates)


def _point(candidate: Candidate) -> Point:
    spec = candidate.compression
    return Point(
        {
            "pattern": spec.pattern,
            "criterion": spec.criterion,
            "scope": spec.scope,
            "schedule": spec.schedule,
            "precision": candidate.export.precision,
            "backend": candidate.backend.kind,
            "seed": str(spec.seed),
        },
        {"sparsity": spec.sparsity},
    )


def costs_of(
    result: Result, reference: Result, objectives: Sequence[str]
) -> tuple[float, ...] | None:
    """Return a result's costs relative to the reference: 1 is as good, less is better.

    A metric where lower is better is divided by the reference's; a share of right answers turns
    into the ratio of errors; any other score into 1 plus the loss as a share of the reference's.
    None when a number is missing: such a candidate was tried in vain. An objective that the
    reference lacks itself is left out for all.
    """
    costs = []
    for metric in objectives:
        base = reference.number(metric)
        if base is None:
            continue
        own = result.number(metric)
        if own is None or result.failure is not None:
            return None
        if METRICS[metric].better == "lower":
            costs.append(own / base if base else 1.0 + own)
        elif METRICS[metric].unit == "fraction":
            # Three right answers of a million may be missing: nothing is divided by zero.
            costs.append((1 - own + 1e-3) / (1 - base + 1e-3))
        else:
            costs.append(1 + (base - own) / (abs(base) or 1.0))
    return tuple(costs)
