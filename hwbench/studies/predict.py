"""What models would take on a board that is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hwbench import export, prediction
from hwbench.errors import StageError, UserError
from hwbench.pipeline import session
from hwbench.prediction import counts
from hwbench.prediction.cycles import Counts
from hwbench.records import Candidate, OnnxModel, Source, TargetProfile, Value, missing


@dataclass(frozen=True, slots=True)
class Foretold:
    """The predicted latency of one file with one backend (or why there is none).

    ``macs`` is None where the file cannot be counted.
    """

    file: str
    backend: str
    core: str
    latency: Value
    macs: int | None


def foretell(
    paths: Sequence[Path], target: TargetProfile, *, count: bool = True
) -> tuple[Foretold, ...]:
    """Return the predicted latency of ONNX files (or runs, or bundles) on a target.

    Each with every backend of the target, since they make different things of zeros: all by the
    model that counts if `count` is wanted and can be had here, else all by operator classes.
    Raises `UserError` when a file cannot be read, or nothing is known of the target's core.
    """
    core = prediction.core_of(target)
    if core is None:
        raise UserError(
            "nothing can be predicted for this target: its backends name no core that is known",
            where=target.name,
            expected=f"mcpu: one of {', '.join(prediction.CORES)}",
        )
    asked: list[tuple[Path, Candidate, OnnxModel]] = []
    for path in paths:
        model, batch = export.read(_file(path))
        for backend in target.backends:
            candidate = Candidate(model.spec, backend, target.name, batch or 1, threads=1)
            asked.append((path, candidate, model))
    lack = counts.lacking(core) if count else "it was not asked for"
    if lack:
        note = f"the model that counts is not used: {lack}"
        found = [_noted(prediction.value(model, one, core), note) for _, one, model in asked]
    else:
        found = _counted([(one, model) for _, one, model in asked], target, core)
    return tuple(
        Foretold(
            str(path), one.backend.kind, core, latency, model.counts.macs if model.counts else None
        )
        for (path, one, model), latency in zip(asked, found, strict=True)
    )


def _counted(
    asked: Sequence[tuple[Candidate, OnnxModel]], target: TargetProfile, core: str
) -> list[Value]:
    """Return latencies by what the artifacts are counted to do; each is compiled for it."""
    made, failed = {}, {}
    with session.scratch(target) as line:
        waiting = [line.compiled(candidate, model) for candidate, model in asked]
        for place, future in enumerate(waiting):
            try:
                made[place] = future.result()
            except (StageError, UserError) as error:
                failed[place] = missing("latency_p50", Source.PREDICTED, error.what)
        seen: Mapping[str, Counts | StageError] = counts.count(list(made.values()), core)
    return [
        failed[place]
        if place in failed
        else prediction.counted(candidate, seen[made[place].digest], core)
        for place, (candidate, _) in enumerate(asked)
    ]


def _noted(value: Value, note: str) -> Value:
    return replace(value, note="; ".join(part for part in (value.note, note) if part))


def _file(path: Path) -> Path:
    """Return the ONNX file that a path means: itself, that of a bundle, or of what a run chose."""
    for file in (path, path / "model.onnx", path / "model" / "model.onnx"):
        if file.is_file():
            return file
    raise UserError(
        "is no ONNX file, bundle or run", where=str(path),
        expected="an ONNX file, a run's folder, or its model/",
    )  # fmt: skip
