"""Two artifacts, one sitting: is B worse than A?"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import measurement
from hwbench.errors import StageError, UserError
from hwbench.measurement import compared
from hwbench.measurement.compared import Row
from hwbench.pipeline import session
from hwbench.pipeline.prepare import Line
from hwbench.records import CompiledModel, Failure, MeasureSpec, TargetProfile
from hwbench.studies.finished import artifact, random_inputs, takes

ON = ("latency_p50", "peak_memory")
"""The metrics in which B may not be worse."""
_READINGS = 5
"""Of memory and energy each: one says nothing of the next."""
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
            first = artifact(line, a, backend)
        except StageError as error:
            raise UserError(
                f"cannot be measured: {error.what}", where=str(a), mend=error.mend or error.where
            ) from error
        try:
            second = artifact(line, b, backend)
        except StageError as error:
            return _lost(a, b, target, first, margin, Failure.of(error))
        _same_inputs(a, first, b, second)
        inputs = random_inputs(first, folder / "inputs.npy")
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
    answers = measurement.answers(pair, target, spec, inputs, folder / "answers")
    broken = answers.of(first.digest).failures.get("outputs")
    if broken is not None:
        raise UserError(f"cannot be measured: {broken.message}", where=str(a), mend=broken.detail)
    broken = answers.of(second.digest).failures.get("outputs")
    if broken is not None:
        return _lost(a, b, target, first, margin, broken)
    sitting = measurement.measure(
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


def _same_inputs(a: Path, first: CompiledModel, b: Path, second: CompiledModel) -> None:
    wants = [takes(model) for model in (first, second)]
    if wants[0] != wants[1]:
        raise UserError(
            f"takes {wants[1]}, {a.name} takes {wants[0]}",
            where=str(b),
            expected="two models with the same input",
        )


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
