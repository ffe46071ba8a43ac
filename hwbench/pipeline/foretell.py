"""What models would take on a board that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import export, predict
from hwbench.errors import UserError
from hwbench.records import Candidate, TargetProfile, Value


@dataclass(frozen=True, slots=True)
class Foretold:
    """The predicted latency of one file with one backend (or why there is none), and its MACs."""

    file: str
    backend: str
    core: str
    latency: Value
    macs: int


def foretell(paths: Sequence[Path], target: TargetProfile) -> tuple[Foretold, ...]:
    """Return the predicted latency of ONNX files (or runs, or bundles) on a target.

    Each with every backend of the target, since they make different things of zeros. Raises
    `UserError` when a file cannot be read, or nothing is known of the target's core.
    """
    core = predict.core_of(target)
    if core is None:
        raise UserError(
            "nothing can be predicted for this target: its backends name no core that is known",
            where=target.name,
            expected=f"mcpu: one of {', '.join(predict.CORES)}",
        )
    found = []
    for path in paths:
        model, batch = export.read(_file(path))
        for backend in target.backends:
            candidate = Candidate(model.spec, backend, target.name, batch or 1, threads=1)
            latency = predict.value(model, candidate, core)
            found.append(Foretold(str(path), backend.kind, core, latency, model.macs))
    return tuple(found)


def _file(path: Path) -> Path:
    """Return the ONNX file that a path means: itself, that of a bundle, or of what a run chose."""
    for file in (path, path / "model.onnx", path / "model" / "model.onnx"):
        if file.is_file():
            return file
    raise UserError(
        "is no ONNX file, bundle or run", where=str(path),
        expected="an ONNX file, a run's folder, or its model/",
    )  # fmt: skip
