"""Two artifacts, one sitting: is B worse than A?"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench import export, measure
from hwbench.backends import named, revived
from hwbench.errors import StageError, UserError
from hwbench.measure import compared
from hwbench.measure.compared import Row
from hwbench.pipeline import session
from hwbench.pipeline.prepare import Line
from hwbench.records import (
    Candidate,
    CompiledModel,
    Failure,
    MeasureSpec,
    PluginSpec,
    TargetProfile,
    digest,
    file_digest,
    from_json,
)

if TYPE_CHECKING:
    import numpy as np

ON = ("latency_p50", "peak_memory")
"""The metrics in which B may not be worse."""
_SAMPLES = 8
_READINGS = 5
"""Of memory and energy each: one says nothing of the next."""
_SEED = 0
Show = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a paired sitting says about B beside A.

    ``worse`` names the metrics in which B is worse beyond the margin. ``failure`` says why B
    could not be measured; then there are no rows. ``valid`` is False when A did not come out
    equal to its own copy: then the ratios are not to be believed.
    """

    a: str
    b: str
    target: str
    backend: str
    margin: float
    rows: tuple[Row, ...]
    worse: tuple[str, ...]
    failure: Failure | None
    valid: bool
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether B was measured and is nowhere worse beyond the margin."""
        return self.failure is None and not self.worse


def compare(
    a: Path,
    b: Path,
    target: TargetProfile,
    spec: MeasureSpec,
    *,
    backend: str | None = None,
    margin: float = 0.02,
    on: Sequence[str] = ON,
    show: Show = lambda _share, _label: None,
) -> Comparison:
    """Return how B does beside A on a target, measured in turn in one sitting.

    `a` and `b` are ONNX files, bundles (``model/`` of a run) or folders of runs. ONNX files are
    compiled with `backend`, by default the target's first; a bundle's own artifact is taken as
    it is unless a backend is named. Raises `UserError` when either cannot be read, A cannot be
    measured or their inputs differ; a B that fails is a result.
    """
    spec = dataclasses.replace(spec, readings=max(spec.readings, _READINGS))
    with session.scratch(target) as line, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show(0.0, "compiling")
        try:
            first = _made(line, a, target, backend)
        except StageError as error:
            raise UserError(
                f"cannot be measured: {error.what}", where=str(a), mend=error.mend or error.where
            ) from error
        try:
            second = _made(line, b, target, backend)
        except StageError as error:
            return _lost(a, b, target, first, margin, Failure.of(error))
        _same_inputs(a, first, b, second)
        inputs = _inputs(first, folder / "inputs.npy")
        return _measured(line, (a, first), (b, second), spec, inputs, margin, on, show)


def _measured(
    line: Line,
    one: tuple[Path, CompiledModel],
    other: tuple[Path, CompiledModel],
    spec: MeasureSpec,
    inputs: Path,
    margin: float,
    on: Sequence[str],
    show: Show,
) -> Comparison:
    (a, first), (b, second), target, folder = one, other, line.target, inputs.parent
    pair = [first] if first.digest == second.digest else [first, second]
    show(0.0, "asking both for their answers")
    answers = measure.answers(pair, target, spec, inputs, folder / "answers")
    broken = answers.of(first.digest).failures.get("outputs")
    if broken is not None:
        raise UserError(f"cannot be measured: {broken.message}", where=str(a), mend=broken.detail)
    broken = answers.of(second.digest).failures.get("outputs")
    if broken is not None:
        return _lost(a, b, target, first, margin, broken)
    sitting = measure.measure(
        pair,
        first,
        target,
        spec,
        inputs,
        folder / "sitting",
        show,
        empties=line.empties(pair),
    )
    found = sitting.of(second.digest)
    broken = found.failures.get("latency") or found.failures.get("memory")
    if broken is not None:
        return _lost(a, b, target, first, margin, broken)
    rows = compared.rows(sitting, first, second, target, margin)
    notes = [*sitting.notes, *_agreement(answers.of(first.digest).outputs, found.outputs)]
    if len(pair) == 1:
        notes.append("A and B are the same to the byte: this is an A/A")
    return Comparison(
        a=str(a),
        b=str(b),
        target=target.name,
        backend=first.candidate.backend.kind,
        margin=margin,
        rows=rows,
        worse=tuple(r.metric for r in rows if r.worse and r.metric in on),
        failure=None,
        valid=sitting.valid,
        notes=tuple(notes),
    )


def _lost(
    a: Path, b: Path, target: TargetProfile, first: CompiledModel, margin: float, why: Failure
) -> Comparison:
    kind = first.candidate.backend.kind
    return Comparison(str(a), str(b), target.name, kind, margin, (), (), why, True, ())


# --------------------------------------------------------------------------------------------
# artifacts


def _made(line: Line, path: Path, target: TargetProfile, backend: str | None) -> CompiledModel:
    """Return the artifact of an ONNX file, of a bundle, or of what a run chose."""
    if not path.exists():
        raise UserError("does not exist", where=str(path))
    if path.is_file():
        return _compiled(line, path, _spec(target, backend))
    bundle = path if (path / "manifest.json").exists() else path / "model"
    try:
        manifest = json.loads((bundle / "manifest.json").read_text())
        candidate = from_json(Candidate, revived(manifest)["candidate"])
        entry, shape = manifest.get("entry"), manifest["input"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            "is no bundle and no run that chose a model",
            where=str(path),
            expected="an ONNX file, a run's folder, or its model/",
        ) from error
    if backend is not None or not entry:
        spec = _spec(target, backend) if backend is not None else candidate.backend
        return _compiled(line, bundle / "model.onnx", spec)
    files = sorted(p for p in (bundle / "artifact").rglob("*") if p.is_file())
    return CompiledModel(
        candidate=candidate,
        folder=bundle / "artifact",
        entry=entry,
        digest=digest({"files": [file_digest(p) for p in files], "candidate": candidate.key}),
        artifact_bytes=sum(p.stat().st_size for p in files),
        input_name=shape["name"],
        input_shape=tuple(shape["shape"][1:]),
        input_dtype=shape["dtype"],
    )


def _spec(target: TargetProfile, backend: str | None) -> PluginSpec:
    if not target.backends:
        raise UserError("names no backend", where=target.name)
    if backend is None:
        return named(target.backends[0])
    # One that the target does not name runs with its own defaults.
    return named(next((s for s in target.backends if s.kind == backend), PluginSpec(backend)))


def _compiled(line: Line, path: Path, spec: PluginSpec) -> CompiledModel:
    model, batch = export.read(path)
    target = line.target
    candidate = Candidate(model.spec, spec, target.name, batch or 1, target.threads)
    return line.compiled(candidate, model).result()


def _same_inputs(a: Path, first: CompiledModel, b: Path, second: CompiledModel) -> None:
    wants = [
        f"{m.input_dtype} of {m.candidate.batch} × {' × '.join(map(str, m.input_shape))}"
        for m in (first, second)
    ]
    if wants[0] != wants[1]:
        raise UserError(
            f"takes {wants[1]}, {a.name} takes {wants[0]}",
            where=str(b),
            expected="two models with the same input",
        )


def _inputs(model: CompiledModel, path: Path) -> Path:
    """Write random inputs of a model's shape: normal numbers, or small integers."""
    import numpy as np

    rng = np.random.default_rng(_SEED)
    shape = (max(_SAMPLES, model.candidate.batch), *model.input_shape)
    kind = np.dtype(model.input_dtype)
    values: np.ndarray = rng.standard_normal(shape)
    if kind.kind != "f":
        values = rng.integers(0, 2, shape)
    np.save(path, values.astype(kind), allow_pickle=False)
    return path


def _agreement(a: Path | None, b: Path | None) -> list[str]:
    """Return in words how far apart the two models' answers are."""
    import numpy as np

    if a is None or b is None:
        return []
    first, second = np.load(a), np.load(b)
    if first.shape != second.shape:
        return [f"their outputs have the shapes {first.shape[1:]} and {second.shape[1:]}"]
    size = float(np.abs(first).max()) or 1.0
    gap = float(np.abs(first.astype(np.float64) - second).max()) / size
    return [f"on random inputs their answers differ by up to {gap:.1e} of the largest one"]
