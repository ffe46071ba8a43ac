"""Measuring where no host can reach: pack a folder here, take its results in later.

What comes back is only ever read as measurements. What was packed (recipe, target, artifacts) is
taken from the record that was kept here, never from the folder: nothing that a foreign machine
wrote decides what runs on this one.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import files, measurement, search
from hwbench.errors import UserError
from hwbench.measurement import parcel
from hwbench.pipeline import keys, session
from hwbench.pipeline.prepare import Lost, prepare, ready_of
from hwbench.pipeline.session import Progress, Workspace
from hwbench.records import (
    CompiledModel,
    PluginSpec,
    Recipe,
    SearchSpec,
    TargetProfile,
    digest,
    file_digest,
    from_json,
    to_json,
)
from hwbench.store import FORMAT, read_json
from hwbench.studies.bench import Outcome, bench

_NAME = "parcel.json"


@dataclass(frozen=True, slots=True)
class Packed:
    """A folder that is ready to go: its size in bytes, what is in it and what failed before."""

    folder: Path
    size: int
    artifacts: int
    failed: tuple[Lost, ...]


def pack(
    recipe: Recipe, target: TargetProfile, workspace: Workspace, progress: Progress, to: Path
) -> Packed:
    """Prepare a recipe for a target and write what measures it there into `to` (new or empty).

    The target is not reached, so it needs no connection. Raises `UserError` when `to` is not
    empty, or nothing could be prepared.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError("is not empty", where=str(to), mend="name a new folder")
    # What to train cannot wait for what the device says: everything is made.
    recipe = dataclasses.replace(recipe, search=SearchSpec())
    candidates = search.plan(recipe, target)
    with (
        tempfile.TemporaryDirectory() as home,
        session.opened(recipe, target, workspace, progress, folder=Path(home)) as context,
    ):
        progress("prepare", 0.0, recipe.title)
        prepared = prepare(context.line, candidates)
        compiled = [p.compiled for p in ready_of(prepared)]
        inputs = context.split("validation").inputs
        empties = context.line.empties(compiled)
        progress("prepare", 1.0, recipe.title)
    reference = next(c for c in compiled if c.candidate.compression.is_dense)
    with files.said(to):
        to.mkdir(parents=True, exist_ok=True)
    size = measurement.pack(compiled, reference, target, context.spec, inputs, to, empties)
    _register(recipe, target, compiled, workspace, to)
    failed = tuple(p for p in prepared if isinstance(p, Lost))
    return Packed(to, size, len({c.digest for c in compiled}), failed)


def unpack(folder: Path, workspace: Workspace, progress: Progress) -> Outcome:
    """Return the run made of a folder that came back: report, decision and all.

    Raises `UserError` when the folder was not packed here or other artifacts would be made of
    the recipe now, `TargetError` when it was not measured to its end.
    """
    record = _record(folder, workspace)
    if record["job"] != file_digest(folder / "job.json"):
        raise UserError(
            "job.json is not what was packed", where=str(folder), mend="pack and measure it again"
        )
    if record["stamp"] != keys.toolchain():
        raise UserError(
            "another version of hwbench (or of its libraries) packed it",
            where=str(folder),
            expected="the version that compiled the artifacts",
            mend="unpack with that version, or pack and measure again",
        )
    target = from_json(TargetProfile, record["target"])
    connection = PluginSpec(parcel.KIND, {"folder": str(folder.absolute())})
    recipe = from_json(Recipe, record["recipe"])
    return bench(recipe, dataclasses.replace(target, connection=connection), workspace, progress)


def _register(
    recipe: Recipe,
    target: TargetProfile,
    compiled: Sequence[CompiledModel],
    workspace: Workspace,
    folder: Path,
) -> None:
    """Keep here what was packed, and leave in the folder only the name of that record."""
    record = {
        "format": FORMAT,
        "recipe": to_json(recipe),
        "target": to_json(target),
        "artifacts": sorted({c.digest for c in compiled}),
        "stamp": keys.toolchain(),
        "job": file_digest(folder / "job.json"),
        "packed": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    key = digest(record)
    files.write(_home(workspace, key), json.dumps(record, indent=1))
    said = {
        "format": FORMAT,
        "parcel": key,
        "recipe": recipe.name,
        "target": target.name,
        "packed": record["packed"],
    }
    files.write(folder / _NAME, json.dumps(said, indent=1))


def _record(folder: Path, workspace: Workspace) -> dict[str, object]:
    key = str(read_json(folder / _NAME).get("parcel"))
    if not key.isalnum() or not _home(workspace, key).exists():
        raise UserError(
            "was not packed here",
            where=str(folder),
            expected=f"its record under {workspace.cache / 'parcels'}",
            mend="unpack it in the checkout (and with the --cache) that packed it",
        )
    return read_json(_home(workspace, key))


def _home(workspace: Workspace, key: str) -> Path:
    return workspace.cache.absolute() / "parcels" / f"{key}.json"
