"""Candidates as points that a sampler can walk on."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.records import Candidate, Point


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
            "healing": spec.healing,
            "precision": candidate.export.precision,
            "backend": candidate.backend.kind,
            "seed": str(spec.seed),
        },
        {"sparsity": spec.sparsity},
    )
