"""What finished models cost on a target: latency, memory, energy."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import measurement as measuring
from hwbench.errors import StageError
from hwbench.measurement import compared
from hwbench.pipeline import session
from hwbench.pipeline.prepare import Line
from hwbench.records import (
    CompiledModel,
    Failure,
    Measurement,
    MeasureSpec,
    Sitting,
    TargetProfile,
    Value,
)
from hwbench.studies.finished import artifact, random_inputs, takes

SECONDS = 40.0
"""What measuring may take unless more is asked for: with compiling, an answer within a minute."""
Show = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one file costs with one backend, or why it is not known.

    ``values`` are by metric; ``beside`` are the rows against the first file that takes the same
    input (empty for that file itself).
    """

    file: str
    backend: str
    takes: str = ""
    values: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    beside: tuple[compared.Row, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """The costs of all files on a target, in the order they were asked for.

    ``valid`` is False when the session could not tell a model from its own copy: then no figure is
    to be believed.
    """

    target: str
    models: tuple[ModelCost, ...]
    valid: bool
    notes: tuple[str, ...]

    @property
    def measured(self) -> bool:
        """Whether every file was measured."""
        return all(model.failure is None for model in self.models)


def measure(
    paths: Sequence[Path],
    target: TargetProfile,
    spec: MeasureSpec,
    *,
    backends: Sequence[str] = (),
    show: Show = lambda _share, _label: None,
) -> ModelCosts:
    """Return what finished models cost on a target, all that take the same input in one session.

    `paths` are ONNX files, bundles (``model/`` of a run) or folders of runs; each is measured with
    every one of `backends`, by default the target's first, a bundle with its own. Raises
    `UserError` when a file cannot be read, `TargetError` when the device cannot be used; what
    cannot be compiled or does not run is a result.
    """
    asked = [(path, backend) for path in paths for backend in (backends or (None,))]
    with session.scratch(target) as line, tempfile.TemporaryDirectory() as name:
        show(0.0, "compiling")
        made = [_made(line, path, backend) for path, backend in asked]
        alike: dict[str, dict[str, CompiledModel]] = {}
        for model in made:
            if isinstance(model, CompiledModel):
                alike.setdefault(takes(model), {})[model.digest] = model
        sessions = {
            kind: _measured(line, list(models.values()), spec, Path(name) / str(place), show)
            for place, (kind, models) in enumerate(alike.items())
        }
    models = tuple(
        _cost(str(path), backend or "", model, target, sessions)
        for (path, backend), model in zip(asked, made, strict=True)
    )
    seen = [one.session for one in sessions.values() if one.session is not None]
    notes = dict.fromkeys(note for one in seen for note in one.notes)
    return ModelCosts(target.name, models, all(one.valid for one in seen), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Measured:
    """The session of all that run, None where none does; why the others do not, by digest."""

    session: Sitting | None
    failures: Mapping[str, Failure]


def _made(line: Line, path: Path, backend: str | None) -> CompiledModel | Failure:
    try:
        return artifact(line, path, backend)
    except StageError as error:
        return Failure.of(error)


def _measured(
    line: Line, models: Sequence[CompiledModel], spec: MeasureSpec, folder: Path, show: Show
) -> _Measured:
    """Return one session of all models that take the same input and run at all."""
    folder.mkdir()
    inputs = random_inputs(models[0], folder / "inputs.npy")
    show(0.0, "asking each for its outputs")
    outputs = measuring.answers(models, line.target, spec, inputs, folder / "outputs")
    broken = {m.artifact: m.failures["outputs"] for m in outputs.measurements if m.failures}
    running = [model for model in models if model.digest not in broken]
    if not running:
        return _Measured(None, broken)
    session_ = measuring.measure(
        running,
        running[0],
        line.target,
        spec,
        inputs,
        folder / "session",
        show,
        empties=line.empties(running),
    )
    return _Measured(session_, broken)


def _cost(
    file: str,
    backend: str,
    model: CompiledModel | Failure,
    target: TargetProfile,
    sessions: Mapping[str, _Measured],
) -> ModelCost:
    if isinstance(model, Failure):
        return ModelCost(file, backend, failure=model)
    kind, wanted = model.candidate.backend.kind, takes(model)
    session_ = sessions[wanted].session
    failure = sessions[wanted].failures.get(model.digest)
    if failure is not None or session_ is None:
        return ModelCost(file, kind, wanted, failure=failure)
    mine = session_.of(model.digest)
    if "latency" in mine.failures:
        return ModelCost(file, kind, wanted, failure=mine.failures["latency"])
    values = measuring.values(mine, session_, model, target)
    return ModelCost(file, kind, wanted, values, _beside(session_, mine, model, target))


def _beside(
    session_: Sitting, mine: Measurement, model: CompiledModel, target: TargetProfile
) -> tuple[compared.Row, ...]:
    if mine.artifact == session_.reference.artifact:
        return ()
    first = dataclasses.replace(model, digest=session_.reference.artifact)
    return compared.rows(session_, first, model, target, margin=0.02)
