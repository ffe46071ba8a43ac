"""Models that are finished: ONNX files, bundles, what runs chose; measured as they are."""

from __future__ import annotations

import json
from pathlib import Path

from hwbench import export
from hwbench.backends import named, revived
from hwbench.errors import UserError
from hwbench.pipeline.prepare import Line
from hwbench.records import (
    Candidate,
    CompiledModel,
    PluginSpec,
    TargetProfile,
    digest,
    file_digest,
    from_json,
)

_SAMPLES = 8
_SEED = 0


def artifact(line: Line, path: Path, backend: str | None) -> CompiledModel:
    """Return the artifact of an ONNX file, of a bundle, or of what a run chose, for line's target.

    ONNX files are compiled with `backend`, by default the target's first; a bundle's own artifact
    is taken as it is unless a backend is named. Raises `UserError` when it cannot be read,
    `StageError` when it cannot be compiled.
    """
    if not path.exists():
        raise UserError("does not exist", where=str(path))
    if path.is_file():
        return _compiled(line, path, _spec(line.target, backend))
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
        spec = _spec(line.target, backend) if backend is not None else candidate.backend
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


def takes(model: CompiledModel) -> str:
    """Return what a model takes, in words: the type and the shape of its input."""
    shape = " × ".join(map(str, model.input_shape))
    return f"{model.input_dtype} of {model.candidate.batch} × {shape}"


def random_inputs(model: CompiledModel, path: Path) -> Path:
    """Write random inputs of a model's shape: normal numbers, or small integers; return `path`."""
    import numpy as np

    rng = np.random.default_rng(_SEED)
    shape = (max(_SAMPLES, model.candidate.batch), *model.input_shape)
    kind = np.dtype(model.input_dtype)
    values: np.ndarray = rng.standard_normal(shape)
    if kind.kind != "f":
        values = rng.integers(0, 2, shape)
    np.save(path, values.astype(kind), allow_pickle=False)
    return path
