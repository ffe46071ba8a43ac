"""Evidence of a board that is not there: all that is true without it, and predicted latencies."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwbench import conditions, pareto, prediction
from hwbench.backends import REFERENCE
from hwbench.connections import local
from hwbench.errors import StageError, UserError
from hwbench.pipeline import keys, measuring, scoring
from hwbench.pipeline.counted import counted
from hwbench.pipeline.judge import failed
from hwbench.pipeline.prepare import Lost, Prepared, Ready, ready_of
from hwbench.pipeline.session import Context
from hwbench.prediction import counts
from hwbench.records import (
    Answers,
    Candidate,
    Decision,
    Failure,
    Measurement,
    OnnxModel,
    Recipe,
    Result,
    Source,
    Strategy,
    TargetProfile,
    Value,
    file_digest,
    missing,
)
from hwbench.registry import BACKENDS
from hwbench.studies.emulated_check import emulated_check
from hwbench.studies.evidence import Phases, Seen


@dataclasses.dataclass(frozen=True, slots=True)
class Latencies:
    """Predicted latencies by candidate, and in a sentence by which model."""

    values: Mapping[str, Value]
    how: str


_PREDICTED = keys.HostRoom("predict", Latencies)
_NEEDS_IT = "nobody can tell without the board"
_MACHINES = {"aarch64": 183, "x86_64": 62}
"""ELF's numbers of processors."""


def is_absent(target: TargetProfile) -> bool:
    """Return whether a target is not there, but something can be said of it all the same."""
    return target.connection is None and prediction.core_of(target) is not None


def first_line(target: TargetProfile) -> str:
    """Return what is said before anything else."""
    return (
        f"no board is configured for {target.name}: nothing will be measured; accuracy is that of "
        f"the ONNX files on this machine, latency is predicted"
    )


class Predicted:
    """ONNX files scored on this machine, latencies predicted, outputs checked in emulation."""

    source = Source.PREDICTED

    def strategy(self, recipe: Recipe) -> Strategy:
        """Train all: trying them untrained first is for boards that can say how fast they are."""
        return "train_all"

    def judged(self, context: Context, prepared: Sequence[Prepared], phases: Phases) -> Seen:
        """Return what is known of every candidate, all latencies by the same model."""
        with phases.timed("score"):
            ready = ready_of(prepared)
            scores = self.scores(context, ready, "validation")
            context.progress("score", 0.5, "predicting")
            latencies = _latencies(context, ready)
            results = [
                failed(p)
                if isinstance(p, Lost)
                else _result(context, p, scores[p.candidate.key], latencies.values)
                for p in prepared
            ]
        return Seen(results, (first_line(context.target), latencies.how))

    def confirmed(
        self,
        context: Context,
        results: Sequence[Result],
        decision: Decision,
        ready: Sequence[Ready],
    ) -> tuple[Sequence[Result], Decision, tuple[str, ...]]:
        """Run the artifacts that matter in emulation: do they answer as their files do here?"""
        results, decision, note = emulated_check(
            context,
            results,
            ready,
            lambda found: pareto.decide(found, context.recipe, context.target),
        )
        context.progress("score", 1.0, "")
        return results, decision, (note,)

    def scores(
        self, context: Context, ready: Sequence[Ready], split: str
    ) -> Mapping[str, scoring.Judged]:
        """Return the score of every ONNX file on this machine."""
        data, workload = context.split(split), context.recipe.workload
        models = {p.model.digest: p.model for p in ready}
        answers = _answers(context, list(models.values()), split)
        where = f"the ONNX file in ONNX Runtime on this machine ({platform.machine()})"
        asked = {
            key: scoring.asked(context.line, workload, model, answers.of(key), data)
            for key, model in models.items()
        }
        by_model = {}
        for key, future in asked.items():
            value, failure = scoring.score(future, answers.of(key), data, Source.PREDICTED)
            note = f"{value.note}; {where}" if value.value is not None else value.note
            by_model[key] = dataclasses.replace(value, note=note), failure
        return {p.candidate.key: by_model[p.model.digest] for p in ready}


def _latencies(context: Context, ready: Sequence[Ready]) -> Latencies:
    """Return the predicted latency of every candidate: all by the same model."""
    core = prediction.core_of(context.target)
    assert core is not None
    lack = counts.lacking(core)
    if not lack:
        try:
            return _counted(context, ready, core)
        except StageError as error:
            lack = error.what
    values = {p.candidate.key: prediction.value(p.model, p.candidate, core) for p in ready}
    how = f"latency is predicted from operator classes; the model that counts is not used: {lack}"
    return Latencies(values, how)


def _counted(context: Context, ready: Sequence[Ready], core: str) -> Latencies:
    """Return latencies by what the artifacts were counted to do, cached; raises `StageError`."""
    source = sorted(p for p in Path(prediction.__file__).parent.iterdir() if p.is_file())
    artifacts = [p.compiled.digest for p in ready]
    entry = _PREDICTED.entry(artifacts=artifacts, by=file_digest(*source), on=core)

    def build(_folder: Path) -> Latencies:
        seen = counts.count([p.compiled for p in ready], core)
        values = {
            p.candidate.key: prediction.counted(p.candidate, seen[p.compiled.digest], core)
            for p in ready
        }
        how = "latency is predicted from what the artifacts did, counted in QEMU"
        return Latencies(values, how)

    return context.cache.make(entry, build)


def _result(
    context: Context,
    ready: Ready,
    score: scoring.Judged,
    latencies: Mapping[str, Value],
) -> Result:
    compiled, model = ready.compiled, ready.model
    value, failure = score
    failure = failure or _misbuilt(compiled.folder / compiled.entry, context.target)
    known = [
        value,
        latencies[ready.candidate.key],
        Value("artifact_bytes", float(compiled.artifact_bytes), Source.STATIC),
    ]
    gone = {*context.recipe.objectives, "peak_memory", "energy"}
    values = {**counted(model, compiled.layers), **{v.metric: v for v in known}}
    values |= {m: missing(m, Source.PREDICTED, _NEEDS_IT) for m in gone if m not in values}
    return Result(
        candidate=ready.candidate,
        values=values,
        failure=failure,
        notes=ready.notes,
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


def _answers(context: Context, models: Sequence[OnnxModel], split: str) -> Answers:
    """Return what ONNX files answer on this machine; each measurement is named by its file."""
    here = dataclasses.replace(
        context.target,
        connection=local.HERE,
        isa=platform.machine(),
        model="",
        features=(),
        backends=(REFERENCE,),
    )
    line = context.line.at(here)
    asked = {
        model.digest: line.compiled(
            Candidate(model.spec, REFERENCE, here.name, context.recipe.batch), model
        )
        for model in models
    }
    compiled, lost = [], []
    for name, future in asked.items():
        try:
            compiled.append(dataclasses.replace(future.result(), digest=name))
        except (StageError, UserError) as error:
            failures = {"outputs": Failure.of(error, "compile")}
            lost.append(Measurement(name, Source.PREDICTED, failures=failures))
    wheels = BACKENDS.traits(REFERENCE.kind).device_distributions
    on = keys.Device(here, conditions.read(wheels=wheels).fingerprint)
    given = keys.inputs(context.recipe.workload, split)
    seen = measuring.outputs(context.cache, on, context.spec, compiled, given)
    return Answers((*seen.measurements, *lost))
