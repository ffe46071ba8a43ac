"""The room that turns an ONNX file into an artifact: the host half of a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hwbench.errors import StageError
from hwbench.protocols import Backend, Planning, Telling
from hwbench.records import (
    Candidate,
    CompiledModel,
    OnnxModel,
    TargetProfile,
    digest,
    file_digest,
)
from hwbench.registry import BACKENDS


def compile_model(
    candidate: Candidate,
    model: OnnxModel,
    target: TargetProfile,
    folder: Path,
    heard: Callable[[float], None] | None = None,
) -> CompiledModel:
    """Return the artifact of one candidate, compiled into `folder` (made if need be, else empty).

    Its digest covers the files and what decides how they are run: the backend with its options,
    the batch and the threads. A backend that takes minutes tells `heard` the share of them that
    is over. Raises `StageError` when the backend cannot compile the model.
    """
    since = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    spec = candidate.backend
    _check_fit(candidate, model)
    backend = BACKENDS.create(spec.kind, spec.options)
    if heard is not None and isinstance(backend, Telling):
        backend.listen(heard)
    entry = backend.compile(model, candidate, target, folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if folder / entry not in files:
        raise StageError("compile", f"the backend {spec.kind} did not write {entry}")
    return CompiledModel(
        candidate=candidate,
        folder=folder,
        entry=entry,
        digest=_digest(candidate, entry, {str(p.relative_to(folder)): p for p in files}),
        artifact_bytes=sum(p.stat().st_size for p in files),
        input_name=model.input_name,
        input_shape=model.input_shape,
        input_dtype=model.input_dtype,
        layers=backend.eligible(model),
        versions=_versions(backend),
        seconds=time.monotonic() - since,
        planned_memory=backend.planned_memory(model) if isinstance(backend, Planning) else None,
    )


def _check_fit(candidate: Candidate, model: OnnxModel) -> None:
    """Raise `StageError` for a batch or an input that the backend's traits rule out."""
    kind = candidate.backend.kind
    traits = BACKENDS.traits(kind)
    if traits.max_batch is not None and candidate.batch > traits.max_batch:
        raise StageError(
            "compile",
            f"the backend {kind} takes no batch of {candidate.batch}",
            expected=f"a batch of at most {traits.max_batch}",
        )
    if model.input_dtype not in traits.input_dtypes:
        raise StageError(
            "compile",
            f"the backend {kind} takes no input of {model.input_dtype}",
            expected=f"one of {', '.join(traits.input_dtypes)}",
        )


def _versions(backend: Backend) -> Mapping[str, str]:
    """Return what the backend is made of here; empty where it only compiles for elsewhere."""
    try:
        return backend.versions()
    except StageError:
        return {}


def _digest(candidate: Candidate, entry: str, files: Mapping[str, Path]) -> str:
    return digest(
        {
            "files": {name: file_digest(path) for name, path in files.items()},
            "entry": entry,
            "backend": candidate.backend,
            "batch": candidate.batch,
            "threads": candidate.threads,
        }
    )
