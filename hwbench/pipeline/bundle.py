"""The chosen model as a folder that runs without hwbench: ONNX, artifact, manifest, script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from hwbench import files
from hwbench.pipeline.prepare import Ready
from hwbench.records import CompiledModel, OnnxModel, Study, file_digest, to_json
from hwbench.registry import BACKENDS
from hwbench.store import FORMAT


def write(study: Study, ready: Sequence[Ready], folder: Path) -> tuple[Path, ...]:
    """Write the chosen model's bundle; return its files (none when nothing was chosen)."""
    for prepared in ready:
        if prepared.candidate.key == study.decision.chosen:
            return _write(study, prepared.model, prepared.compiled, folder)
    return ()


def _write(
    study: Study, model: OnnxModel, compiled: CompiledModel, folder: Path
) -> tuple[Path, ...]:
    artifact = folder / "artifact"
    with files.said(folder):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(compiled.folder, artifact, ignore=shutil.ignore_patterns("record.json"))
        shutil.copyfile(model.path, folder / "model.onnx")
    spec = compiled.candidate.backend
    backend = BACKENDS.create(spec.kind, spec.options)
    files.write(folder / "run.py", backend.script(f"artifact/{compiled.entry}", compiled))
    shipped = sorted(p for p in folder.rglob("*") if p.is_file())
    result = next(r for r in study.results if r.candidate.key == compiled.candidate.key)
    manifest = {
        "format": FORMAT,
        "candidate": to_json(compiled.candidate),
        "label": compiled.candidate.label,
        "entry": compiled.entry,
        "reason": study.decision.reason,
        "target": to_json(study.target),
        "input": {
            "name": compiled.input_name,
            "shape": [compiled.candidate.batch, *compiled.input_shape],
            "dtype": compiled.input_dtype,
        },
        "outputs": list(model.file.output_names),
        "values": to_json(result.values),
        "test": to_json(study.decision.test),
        "versions": dict(compiled.versions),
        "files": {str(p.relative_to(folder)): file_digest(p) for p in shipped},
    }
    files.write(folder / "manifest.json", json.dumps(manifest, indent=2))
    return (*shipped, folder / "manifest.json")
