"""A run for a board that is not there: all that is true without it, and predicted latencies."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hwbench import compile as compiling
from hwbench import measure, pareto, predict, search
from hwbench.backends import REFERENCE
from hwbench.connections import local
from hwbench.errors import StageError
from hwbench.executor.jobs import Inputs, Prepared, Scored
from hwbench.pipeline.context import Context, versions
from hwbench.pipeline.counted import counted
from hwbench.pipeline.judge import accuracy, ask_score, failed, split
from hwbench.pipeline.prepare import prepare
from hwbench.predict import counts
from hwbench.records import (
    METRICS,
    Answers,
    Candidate,
    CompiledModel,
    Conditions,
    Decision,
    Failure,
    OnnxModel,
    Result,
    Source,
    Study,
    TargetProfile,
    Value,
    digest,
    file_digest,
    missing,
    to_json,
)
from hwbench.search import loop as searching
from hwbench.studies.emulated_check import rehearse


@dataclasses.dataclass(frozen=True, slots=True)
class Latencies:
    """Predicted latencies by candidate, and in a sentence by which model."""

    values: Mapping[str, Value]
    how: str


NOWHERE = Conditions({}, {}, {})
_NEEDS_IT = "nobody can tell without the board"
_MACHINES = {"aarch64": 183, "x86_64": 62}
"""ELF's numbers of processors."""


def is_absent(target: TargetProfile) -> bool:
    """Return whether a target is not there, but something can be said of it all the same."""
    return target.connection is None and predict.core_of(target) is not None


def first_line(target: TargetProfile) -> str:
    """Return what is said before anything else."""
    return (
        f"no board is configured for {target.name}: nothing will be measured; accuracy is that of "
        f"the ONNX files on this machine, latency is predicted"
    )


def study(
    context: Context, candidates: Sequence[Candidate], seconds: dict[str, float]
) -> tuple[Study, Sequence[Prepared]]:
    """Return the study of a recipe without its board, and what was prepared for it.

    `seconds` is filled with the time of each phase. Raises `UserError` as a run with a board
    does; a candidate that fails is a result with its reason.
    """
    started = datetime.datetime.now(datetime.UTC)
    # Trying candidates untrained first is for boards that can say how fast they are.
    asked = dataclasses.replace(context.recipe.search, strategy="train_all")
    context = dataclasses.replace(context, recipe=dataclasses.replace(context.recipe, search=asked))
    found = searching.find(context, candidates, NOWHERE)
    ready = prepare(context, found.candidates)
    context.run.keep(failed(p) for p in ready if p.failure is not None)
    prepared = datetime.datetime.now(datetime.UTC)
    judged, how = _judged(context, ready)
    results = [*judged, *found.failures]
    context.run.keep(results)
    results, decision, rehearsed = rehearse(
        context,
        results,
        ready,
        split(context, "validation"),
        lambda found: pareto.decide(found, context.recipe, context.target),
    )
    context.run.keep(results)
    context.show("score", 1.0, "")
    decision = dataclasses.replace(decision, test=_test(context, decision, ready))
    ended = datetime.datetime.now(datetime.UTC)
    seconds["prepare"] = round((prepared - started).total_seconds(), 1)
    seconds["score"] = round((ended - prepared).total_seconds(), 1)
    left_out = search.left_out(context.recipe, context.target)
    made = Study(
        recipe=dataclasses.replace(context.recipe, measure=context.spec),
        target=context.target,
        results=tuple(results),
        decision=decision,
        conditions=None,
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
        notes=(
            first_line(context.target),
            how,
            rehearsed,
            *(f"the target does not run the backend {name}" for name in left_out),
            *found.notes,
        ),
        tried=found.tried,
    )
    return made, ready


def _judged(context: Context, ready: Sequence[Prepared]) -> tuple[list[Result], str]:
    """Return the results, and by which model their latency is predicted."""
    data = split(context, "validation")
    scores = _scores(context, ready, data)
    context.show("score", 0.5, "predicting")
    latencies = _latencies(context, ready)
    results = [_result(context, p, scores, latencies.values) for p in ready]
    return results, latencies.how


def _latencies(context: Context, ready: Sequence[Prepared]) -> Latencies:
    """Return the predicted latency of every candidate: all by the same model."""
    core = predict.core_of(context.target)
    assert core is not None
    whole = [(p.candidate, p.model, p.compiled) for p in ready if p.model and p.compiled]
    lack = counts.lacking(core)
    if not lack:
        try:
            return _counted(context, [(c, made) for c, _, made in whole], core)
        except StageError as error:
            lack = error.what
    found = {c.key: predict.value(model, c, core) for c, model, _ in whole}
    how = f"latency is predicted from operator classes; the model that counts is not used: {lack}"
    return Latencies(found, how)


def _counted(
    context: Context, made: Sequence[tuple[Candidate, CompiledModel]], core: str
) -> Latencies:
    """Return latencies by what the artifacts were counted to do, cached; raises `StageError`."""
    source = sorted(p for p in Path(predict.__file__).parent.iterdir() if p.is_file())
    key = digest({"artifacts": [m.digest for _, m in made], "by": file_digest(*source), "on": core})

    def build(_folder: Path) -> Latencies:
        found = counts.count([compiled for _, compiled in made], core)
        values = {c.key: predict.counted(c, found[compiled.digest], core) for c, compiled in made}
        return Latencies(
            values, "latency is predicted from what the artifacts did, counted in QEMU"
        )

    return context.cache.make("predict", key, Latencies, build)


def _result(
    context: Context,
    prepared: Prepared,
    scores: Mapping[str, tuple[Value, Failure | None]],
    latencies: Mapping[str, Value],
) -> Result:
    if prepared.compiled is None or prepared.model is None:
        return failed(prepared)
    compiled, model = prepared.compiled, prepared.model
    score, failure = scores[model.digest]
    failure = failure or _misbuilt(compiled.folder / compiled.entry, context.target)
    found = [
        score,
        latencies[prepared.candidate.key],
        Value("artifact_bytes", float(compiled.artifact_bytes), Source.STATIC),
    ]
    gone = {*context.recipe.objectives, "peak_memory", "energy"}
    values = {**counted(model, compiled.layers), **{v.metric: v for v in found}}
    values |= {m: missing(m, Source.PREDICTED, _NEEDS_IT) for m in gone if m not in values}
    return Result(
        candidate=prepared.candidate,
        values=values,
        failure=failure,
        notes=prepared.notes,
        layers=compiled.layers,
        artifact=compiled.digest,
    )


def _misbuilt(entry: Path, target: TargetProfile) -> Failure | None:
    """Return why an artifact cannot run on the target, as far as its file tells."""
    with entry.open("rb") as stream:
        head = stream.read(20)
    wanted = _MACHINES.get(target.isa)
    if wanted is None or head[:4] != b"\x7fELF":
        return None
    machine = int.from_bytes(head[18:20], "little")
    if machine == wanted:
        return None
    return Failure("compile", f"{entry.name} is code for another processor than {target.isa}")


def _scores(
    context: Context, ready: Sequence[Prepared], data: Inputs
) -> Mapping[str, tuple[Value, Failure | None]]:
    """Return the score of every ONNX file on this machine, by its digest."""
    models = {p.model.digest: p.model for p in ready if p.model is not None and p.compiled}
    answers = _answers(context, list(models.values()), data)
    asked = {
        key: ask_score(context, model, answers.of(key).outputs, data)
        for key, model in models.items()
    }
    return {key: _score(asked[key], answers, key, data) for key in models}


def _score(
    wait: Callable[[], Scored] | None, answers: Answers, key: str, data: Inputs
) -> tuple[Value, Failure | None]:
    if wait is None:
        lost = answers.of(key).failures["outputs"]
        return missing(data.metric, Source.PREDICTED, lost.message), lost
    value, failure = accuracy(wait, data, Source.PREDICTED)
    where = f"the ONNX file in ONNX Runtime on this machine ({platform.machine()})"
    return dataclasses.replace(value, note=f"{value.note}; {where}"), failure


def _answers(context: Context, models: Sequence[OnnxModel], data: Inputs) -> Answers:
    """Return what ONNX files answer on this machine; each measurement is named by its file."""
    here = dataclasses.replace(
        context.target,
        connection=local.HERE,
        isa=platform.machine(),
        model="",
        features=(),
        backends=(REFERENCE,),
    )
    key = digest({"here": sorted(m.digest for m in models), "inputs": to_json(data)})

    def build(folder: Path) -> Answers:
        compiled = []
        for model in models:
            candidate = Candidate(model.spec, REFERENCE, here.name, context.recipe.batch)
            made = compiling.compile_model(candidate, model, here, folder / model.digest)
            compiled.append(dataclasses.replace(made, digest=model.digest))
        return measure.answers(compiled, here, context.spec, data.inputs, folder / "answers")

    answers = context.cache.make("here", key, Answers, build)
    if any(m.failures for m in answers.measurements):
        context.cache.forget("here", key)
    return answers


def _test(context: Context, decision: Decision, ready: Sequence[Prepared]) -> Mapping[str, Value]:
    """Return the test split's score of the chosen and of the dense model: read here, once."""
    by_key = {p.candidate.key: p for p in ready}
    roles = {"chosen": decision.chosen, "dense": decision.dense}
    wanted = {role: by_key[key] for role, key in roles.items() if key is not None}
    if not wanted:
        return {}
    data = split(context, "test")
    scores = _scores(context, list(wanted.values()), data)
    assert METRICS[data.metric]
    return {role: scores[p.model.digest][0] for role, p in wanted.items() if p.model is not None}
