"""A set of artifacts that is kept to be held against: files, records, and the worker they ran in.

``reports/baselines/<target>/<recipe>/<hash>/`` with ``held.json``, ``artifacts/``, ``models/`` and
``worker/``. The hash covers every file and every record in it. The worker goes along because it
is part of what was fast or slow: today's may run yesterday's artifact otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwbench import files
from hwbench.backends import revived
from hwbench.errors import UserError
from hwbench.measurement import worker_zip
from hwbench.pipeline.prepare import Ready
from hwbench.records import (
    CompiledModel,
    Conditions,
    Counts,
    OnnxFile,
    OnnxModel,
    Recipe,
    Result,
    digest,
    file_digest,
    from_json,
    to_json,
)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Model:
    """One candidate that is kept: its artifact and its ONNX file, with paths inside the folder."""

    compiled: CompiledModel
    onnx: OnnxModel

    @property
    def label(self) -> str:
        """What it is called in a series."""
        return self.compiled.candidate.label


@dataclass(frozen=True, slots=True)
class PinnedArtifacts:
    """A pinned set: its hash, what made it, and the results it had when it was made."""

    artifacts: str
    folder: Path
    models: tuple[Model, ...]
    recipe: Mapping[str, Any]
    commit: str
    versions: Mapping[str, str]
    conditions: Conditions
    results: tuple[Result, ...] = field(default=())

    @property
    def worker(self) -> Path:
        """The folder of the worker that ran it."""
        return self.folder / "worker"

    def model(self, label: str) -> Model | None:
        """Return a candidate by its label."""
        return next((m for m in self.models if m.label == label), None)


def keep(
    home: Path,
    ready: Sequence[Ready],
    recipe: Recipe,
    commit: str,
    versions: Mapping[str, str],
    conditions: Conditions,
    results: Sequence[Result] = (),
) -> str:
    """Copy what is ready into a folder of its own in `home`; return its hash.

    The same artifacts, worker, recipe and commit again are the same folder, copied once.
    """
    files.write(home / ".here", "")
    with tempfile.TemporaryDirectory(dir=home, prefix=".new-") as name, files.said(home):
        folder = Path(name)
        models = [_copied(p, folder) for p in ready]
        with zipfile.ZipFile(worker_zip(folder / "worker.zip")) as archive:
            archive.extractall(folder / "worker")
        (folder / "worker.zip").unlink()
        data = {
            "models": models,
            "recipe": to_json(recipe),
            "commit": commit,
            "versions": dict(versions),
            "conditions": to_json(conditions),
            "results": to_json(list(results)),
            "files": _hashes(folder),
        }
        decides = {k: data[k] for k in ("models", "recipe", "commit", "versions", "files")}
        artifacts = digest(decides)
        if (home / artifacts / "held.json").exists():
            return artifacts
        files.write(folder / "held.json", json.dumps({"format": FORMAT, **data}, indent=1))
        shutil.rmtree(home / artifacts, ignore_errors=True)
        shutil.copytree(folder, home / artifacts)
    return artifacts


def load(home: Path, artifacts: str) -> PinnedArtifacts:
    """Return a kept set, every file of it checked against its hash.

    Raises `UserError` when it is not there, or not what was kept.
    """
    folder = home / artifacts
    mend = "restore the folder (in CI: from the cache), or pin anew: hwbench baseline set"
    try:
        data = json.loads((folder / "held.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            "the pinned artifacts are not here", where=str(folder), mend=mend
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(folder), mend=mend) from error
    decides = {k: data.get(k) for k in ("models", "recipe", "commit", "versions", "files")}
    if digest(decides) != artifacts or _hashes(folder) != data["files"]:
        what = "is not what was pinned: its files have changed"
        raise UserError(what, where=str(folder), mend=mend)
    return PinnedArtifacts(
        artifacts,
        folder,
        tuple(_restored(revived(m), folder, artifacts) for m in data["models"]),
        data["recipe"],
        data["commit"],
        data["versions"],
        from_json(Conditions, data["conditions"]),
        tuple(from_json(Result, revived(r)) for r in data["results"]),
    )


def prune(home: Path, pinned: frozenset[str], newest: int = 3) -> None:
    """Remove kept sets that nobody pinned, except for the newest few: they can be promoted."""
    sets = [p.parent for p in home.glob("*/held.json") if p.parent.name not in pinned]
    sets.sort(key=lambda p: (p / "held.json").stat().st_mtime, reverse=True)
    for old in sets[newest:]:
        shutil.rmtree(old, ignore_errors=True)


def _copied(ready: Ready, folder: Path) -> dict[str, Any]:
    compiled, onnx = ready.compiled, ready.model
    place = Path("artifacts") / compiled.digest
    ignored = shutil.ignore_patterns("record.json")
    shutil.copytree(compiled.folder, folder / place, ignore=ignored, dirs_exist_ok=True)
    model = Path("models") / f"{onnx.digest}.onnx"
    (folder / "models").mkdir(exist_ok=True)
    shutil.copyfile(onnx.path, folder / model)
    return {
        "compiled": to_json(dataclasses.replace(compiled, folder=place)),
        "onnx": to_json(_at(onnx, model)),
    }


def _restored(data: Mapping[str, Any], folder: Path, artifacts: str) -> Model:
    compiled = from_json(CompiledModel, data["compiled"])
    onnx = from_json(OnnxModel, _upgraded(data["onnx"]))
    return Model(
        dataclasses.replace(
            compiled,
            folder=folder / compiled.folder,
            # Tonight's may be the same to the byte: both are measured, each in its own processes.
            digest=digest({"pinned": artifacts, "artifact": compiled.digest}),
            worker=folder / "worker",
        ),
        _at(onnx, folder / onnx.path),
    )


def _at(model: OnnxModel, path: Path) -> OnnxModel:
    return dataclasses.replace(model, file=dataclasses.replace(model.file, path=path))


def _upgraded(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record of an ONNX file in today's form; format 1 had all of it in one."""
    if "file" in data:
        return data
    file = {f.name: data[f.name] for f in dataclasses.fields(OnnxFile)}
    counts = {f.name: data[f.name] for f in dataclasses.fields(Counts)}
    return {"spec": data["spec"], "file": file, "counts": counts, "parity": data["parity"]}


def _hashes(folder: Path) -> dict[str, str]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "held.json")
    return {str(p.relative_to(folder)): file_digest(p) for p in paths}
