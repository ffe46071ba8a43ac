"""From a measuring session to results: every candidate's values, or why it has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hwbench import measurement
from hwbench.executor.jobs import Inputs
from hwbench.pipeline import scoring
from hwbench.pipeline.counted import counted
from hwbench.pipeline.prepare import Lost, Prepared, Ready, ready_of
from hwbench.pipeline.session import Context
from hwbench.records import Result, Sitting, TargetProfile, Value, missing

MARGIN = 0.02
"""Verdicts: less than this share is no difference."""


def judge(context: Context, prepared: Sequence[Prepared], sitting: Sitting) -> list[Result]:
    """Return the result of every candidate: its values, or why it has none."""
    data, workload = context.split("validation"), context.recipe.workload
    asked = {
        p.candidate.key: scoring.asked(
            context.line, workload, p.model, sitting.of(p.compiled.digest), data
        )
        for p in ready_of(prepared)
    }
    results = []
    for index, one in enumerate(prepared):
        context.progress("score", index / len(prepared), one.candidate.label)
        if isinstance(one, Lost):
            results.append(failed(one))
            continue
        seen = sitting.of(one.compiled.digest)
        limit = scoring.tolerance(one.candidate)
        score = scoring.score(asked[one.candidate.key], seen, data, seen.source, limit)
        results.append(_result(one, sitting, score, data, context.target))
    context.progress("score", 1.0, "")
    return _beside(results, sitting)


def _beside(results: Sequence[Result], sitting: Sitting) -> list[Result]:
    """Return the results with their latency beside that of the session's reference."""
    measured = {
        r.candidate.key: sitting.of(r.artifact) for r in results if r.artifact and not r.failure
    }
    reference = sitting.reference.artifact
    own = next((r.candidate.key for r in results if r.artifact == reference), "")
    ratios = measurement.beside(measured, sitting, own, MARGIN)
    return [dataclasses.replace(r, beside=ratios.get(r.candidate.key)) for r in results]


def failed(lost: Lost) -> Result:
    """Return the result of a candidate that never came to be measured."""
    values = counted(lost.model) if lost.model is not None else {}
    return Result(lost.candidate, values, lost.failure, notes=lost.notes)


def _result(
    ready: Ready,
    sitting: Sitting,
    score: scoring.Judged,
    data: Inputs,
    target: TargetProfile,
) -> Result:
    seen = sitting.of(ready.compiled.digest)
    values: dict[str, Value] = {**counted(ready.model, ready.compiled.layers)}
    values |= measurement.values(seen, sitting, ready.compiled, target)
    failure = seen.failures.get("latency") or seen.failures.get("outputs")
    notes = list(ready.notes)
    counts = ready.model.counts
    if counts is not None and counts.denormals:
        notes.append(f"{counts.denormals} denormal weights: they can slow a CPU down")
    if failure is not None:
        reason = f"not measured: {failure.message}"
        values[data.metric] = missing(data.metric, seen.source, reason)
    else:
        value, failure = score
        values[value.metric] = value
    return Result(
        candidate=ready.candidate,
        values=values,
        failure=failure,
        notes=tuple(notes),
        layers=ready.compiled.layers,
        artifact=ready.compiled.digest,
        fingerprint=sitting.before.fingerprint,
        measured_at=str(sitting.before.state.get("utc", "")),
        roofline=seen.roofline,
    )
