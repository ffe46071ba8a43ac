"""From artifacts to results: measure them in one sitting, score their answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hwbench import files, measure
from hwbench.errors import StageError, UserError
from hwbench.executor.jobs import Inputs, Prepared, Score, Scored, WriteInputs
from hwbench.pipeline.context import Context, measuring_stamp
from hwbench.pipeline.counted import counted
from hwbench.records import (
    METRICS,
    Answers,
    Candidate,
    CompiledModel,
    Conditions,
    Decision,
    Failure,
    Measurement,
    OnnxModel,
    Result,
    Sitting,
    Source,
    Value,
    digest,
    file_digest,
    missing,
    to_json,
)
from hwbench.registry import BACKENDS
from hwbench.traits import AGREES

_ROUNDS = 0.1
"""How far answers in int8 may be from the file's, relative to the largest of them.

Where two processors add floats in another order, a value on the edge rounds to the next of 256
steps, and what follows with it. A broken artifact is off by more.
"""

MARGIN = 0.02
"""Verdicts: less than this share is no difference."""


def sit(
    context: Context, ready: Sequence[Prepared], conditions: Conditions, into: str = ""
) -> Sitting:
    """Return the sitting in which everything that is ready was measured, cached by what decides it.

    The dense model on the first backend that compiled it is the reference, or where it fails on
    the device the next one. A cached sitting says
    in its notes when it was. Raw samples are copied to the run's
    ``samples``, `into` a folder there.
    """
    compiled = [p.compiled for p in ready if p.compiled is not None]
    dense = [c for c in compiled if c.candidate.compression.is_dense]
    reference = dense[0]
    inputs = split(context, "validation")
    key = _sitting_key(context, compiled, reference, conditions)
    kept = context.cache.find("measure", key, Sitting)
    if kept is not None and context.fresh:
        # A finished sitting goes; one that was interrupted is gone on with.
        context.cache.forget("measure", key)
        kept = None
    sitting = kept or context.cache.make(
        "measure",
        key,
        Sitting,
        lambda folder: measure.measure(
            compiled,
            reference,
            context.target,
            context.spec,
            inputs.inputs,
            folder,
            lambda share, label: context.show("measure", share, label),
            lambda answers: _worth(context, ready, inputs, answers),
            dense,
        ),
        resume=True,
    )
    keep_samples(context.cache.folder("measure", key), context.run.folder / "samples" / into)
    if not sitting.valid:
        # What cannot be trusted is shown, and measured again by the next run.
        context.cache.forget("measure", key)
    if kept is None:
        return sitting
    when = sitting.before.state.get("utc", "an earlier run")
    note = f"nothing changed since {when}: the measurements of then are shown (--fresh repeats)"
    return dataclasses.replace(sitting, notes=(note, *sitting.notes))


def _worth(
    context: Context, ready: Sequence[Prepared], data: Inputs, answers: Mapping[str, Path]
) -> Mapping[str, float]:
    """Return the scores of artifacts by what they answered; those that have none are left out."""
    models = {p.compiled.digest: p.model for p in ready if p.compiled is not None and p.model}
    asked = {name: ask_score(context, models[name], file, data) for name, file in answers.items()}
    found = {}
    for name, wait in asked.items():
        if wait is None:
            continue
        # Who is broken is said later; here only a score is wanted.
        value, _ = accuracy(wait, data, Source.MEASURED, math.inf)
        if value.value is not None:
            found[name] = value.value
    return found


def _sitting_key(
    context: Context,
    compiled: Sequence[CompiledModel],
    reference: CompiledModel,
    conditions: Conditions,
) -> str:
    return digest(
        {
            "artifacts": sorted({c.digest for c in compiled}),
            "reference": reference.digest,
            "spec": to_json(context.spec),
            "target": to_json(context.target),
            "fingerprint": conditions.fingerprint,
            "inputs": to_json(context.recipe.workload),
            "batch": context.recipe.batch,
            "code": measuring_stamp(),
        }
    )


def keep_samples(kept: Path, folder: Path) -> None:
    """Copy the raw samples of a sitting into the run's folder: the cache may be cleaned."""
    for path in sorted(kept.glob("*.jsonl")):
        files.write(folder / path.name, path.read_bytes())


def split(context: Context, name: str) -> Inputs:
    """Return a split on disk, written once by a hand."""
    workload = context.recipe.workload

    def build(folder: Path) -> Inputs:
        answers = context.crew.submit(WriteInputs(workload, name, folder)).result()
        return next(a for a in answers if isinstance(a, Inputs))

    return context.cache.make(
        "inputs", digest({"of": to_json(workload), "split": name}), Inputs, build
    )


def check_metric(context: Context) -> None:
    """Write the validation split and see that the recipe speaks of the metric it is scored by.

    Raises `UserError`: before anything is trained, and not after everything was measured.
    """
    recipe, metric = context.recipe, split(context, "validation").metric
    named = {*recipe.objectives, recipe.choose, *(goal.metric for goal in recipe.goals)}
    for other in sorted(named & {"top1", "score"} - {metric}):
        raise UserError(
            f"asks for {other}, but the workload is scored by {metric}",
            where=f"recipe {recipe.name}",
            expected=f"{metric} in objectives, goals and choose",
            mend=f"write {metric} instead of {other}, or set the workload's metric to {other}",
        )


def judge(context: Context, ready: Sequence[Prepared], sitting: Sitting) -> list[Result]:
    """Return the result of every candidate: its values, or why it has none."""
    data = split(context, "validation")
    measured = {m.artifact: m for m in sitting.measurements}
    scores = {
        p.candidate.key: ask_score(context, p.model, measured[p.compiled.digest].outputs, data)
        for p in ready
        if p.compiled is not None and p.model is not None
    }
    results = []
    for index, prepared in enumerate(ready):
        context.show("score", index / len(ready), prepared.candidate.label)
        if prepared.compiled is None or prepared.model is None:
            results.append(failed(prepared))
            continue
        measurement = measured[prepared.compiled.digest]
        answer = scores[prepared.candidate.key]
        results.append(_result(context, prepared, measurement, sitting, answer, data))
    context.show("score", 1.0, "")
    return _beside(results, sitting)


def _beside(results: Sequence[Result], sitting: Sitting) -> list[Result]:
    """Return the results with their latency beside that of the sitting's reference."""
    by_artifact = {m.artifact: m for m in sitting.measurements}
    measured = {
        r.candidate.key: by_artifact[r.artifact] for r in results if r.artifact and not r.failure
    }
    reference = sitting.reference.artifact
    own = next((r.candidate.key for r in results if r.artifact == reference), "")
    found = measure.beside(measured, sitting, own, MARGIN)
    return [dataclasses.replace(r, beside=found.get(r.candidate.key)) for r in results]


def failed(prepared: Prepared) -> Result:
    """Return the result of a candidate that never came to be measured."""
    values = counted(prepared.model) if prepared.model is not None else {}
    return Result(prepared.candidate, values, prepared.failure, notes=prepared.notes)


def _result(
    context: Context,
    prepared: Prepared,
    measurement: Measurement,
    sitting: Sitting,
    answer: Callable[[], Scored] | None,
    data: Inputs,
) -> Result:
    assert prepared.compiled is not None
    assert prepared.model is not None
    values = {**counted(prepared.model, prepared.compiled.layers)}
    values |= measure.values(measurement, sitting, prepared.compiled, context.target)
    failure = measurement.failures.get("latency") or measurement.failures.get("outputs")
    notes = list(prepared.notes)
    if prepared.model.denormals:
        notes.append(f"{prepared.model.denormals} denormal weights: they can slow a CPU down")
    if failure is None and answer is not None:
        limit = tolerance(prepared.candidate)
        score, failure = accuracy(answer, data, measurement.source, limit)
        values[score.metric] = score
    elif failure is not None:
        reason = f"not measured: {failure.message}"
        values[data.metric] = missing(data.metric, measurement.source, reason)
    return Result(
        candidate=prepared.candidate,
        values=values,
        failure=failure,
        notes=tuple(notes),
        layers=prepared.compiled.layers,
        artifact=prepared.compiled.digest,
        fingerprint=sitting.before.fingerprint,
        measured_at=str(sitting.before.state.get("utc", "")),
        roofline=measurement.roofline,
    )


def ask_score(
    context: Context, model: OnnxModel, outputs: Path | None, data: Inputs
) -> Callable[[], Scored] | None:
    """Queue the scoring of an artifact's answers; return what waits for it (None: no answers).

    Scores are cached by the answers themselves.
    """
    if outputs is None:
        return None
    workload = context.recipe.workload
    key = digest(
        {
            "answers": file_digest(outputs, data.labels),
            "model": model.digest,
            "of": to_json(workload),
        }
    )
    found = context.cache.find("score", key, Scored)
    if found is not None:
        return lambda: found
    job = Score(workload, model, outputs, data.inputs, data.labels)
    future = context.crew.submit(job)

    def wait() -> Scored:
        scored = next(a for a in future.result() if isinstance(a, Scored))
        return context.cache.make("score", key, Scored, lambda _folder: scored)

    return wait


def tolerance(candidate: Candidate) -> float:
    """Return how far a candidate's answers may be from its file's: more in short formats."""
    if candidate.export.precision == "int8":
        return _ROUNDS
    backend = candidate.backend
    return BACKENDS.traits(backend.kind).tolerance(backend.options)


def accuracy(
    wait: Callable[[], Scored], data: Inputs, source: Source, limit: float = AGREES
) -> tuple[Value, Failure | None]:
    """Return the score of a deployed artifact, or the reason why it has none.

    ``limit`` is how far its answers may be from its ONNX file's, relative to the largest.
    """
    try:
        scored = wait()
    except StageError as error:
        failure = Failure(error.stage, error.what, error.where)
        return missing(data.metric, source, error.what), failure
    if not scored.disagreement <= limit:
        what = (
            f"the deployed artifact is {scored.disagreement:.1e} away from its ONNX file "
            f"(relative; at most {limit:.0e})"
        )
        return missing(scored.metric, source, what), Failure("measure", what)
    if data.unscored:
        return missing(scored.metric, source, f"not available: {data.unscored}"), None
    note = f"{scored.samples} samples"
    spread = None
    if METRICS[scored.metric].unit == "fraction":
        # Wald's interval is enough for a note; paired comparisons do better on the same images.
        spread = 1.96 * math.sqrt(max(scored.score * (1 - scored.score), 0) / scored.samples)
        note += f", sampling error ±{spread * 100:.1f} pp"
    return Value(scored.metric, scored.score, source, note=note, sampling=spread), None


def read_test(
    context: Context, decision: Decision, ready: Sequence[Prepared]
) -> Mapping[str, Value]:
    """Return the test split's score of the chosen and of the dense model: read here, once."""
    by_key = {p.candidate.key: p for p in ready}
    wanted = {
        role: by_key[key]
        for role, key in (("chosen", decision.chosen), ("dense", decision.dense))
        if key is not None
    }
    if not wanted:
        return {}
    if measure.is_elsewhere(context.target):
        metric = split(context, "validation").metric
        reason = "a parcel carries the validation split only: the test split was not read"
        return {role: missing(metric, Source.MEASURED, reason) for role in wanted}
    try:
        data = split(context, "test")
    except (StageError, UserError) as error:
        # Hours of work do not go down with the last step: the report says what is missing.
        metric = split(context, "validation").metric
        reason = f"the test split cannot be read: {error.what}"
        return {role: missing(metric, Source.MEASURED, reason) for role in wanted}
    compiled = [p.compiled for p in wanted.values() if p.compiled is not None]
    key = digest({"artifacts": sorted({c.digest for c in compiled}), "inputs": to_json(data)})
    sitting = context.cache.make(
        "test",
        key,
        Answers,
        lambda folder: measure.answers(compiled, context.target, context.spec, data.inputs, folder),
    )
    if any(m.failures for m in sitting.measurements):
        context.cache.forget("test", key)
    scores = {}
    for role, prepared in wanted.items():
        assert prepared.compiled is not None
        assert prepared.model is not None
        measured = sitting.of(prepared.compiled.digest)
        wait = ask_score(context, prepared.model, measured.outputs, data)
        if wait is None:
            reason = measured.failures["outputs"].message
            scores[role] = missing(data.metric, measured.source, reason)
        else:
            limit = tolerance(prepared.candidate)
            scores[role], _ = accuracy(wait, data, measured.source, limit)
    return scores
