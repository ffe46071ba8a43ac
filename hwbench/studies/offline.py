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

from hwbench import files, measure, search
from hwbench.errors import UserError
from hwbench.executor.jobs import Prepared
from hwbench.executor.local import Crew
from hwbench.measure import parcel
from hwbench.pipeline.context import Context, Place, Show, measure_spec, open_cache, stamp
from hwbench.pipeline.judge import check_metric, split
from hwbench.pipeline.prepare import prepare
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
from hwbench.store import FORMAT, Run, read_json
from hwbench.studies.bench import Outcome, bench

_NAME = "parcel.json"


@dataclass(frozen=True, slots=True)
class Packed:
    """A folder that is ready to go: its size in bytes, what is in it and what failed before."""

    folder: Path
    size: int
    artifacts: int
    failed: tuple[Prepared, ...]


def pack(recipe: Recipe, target: TargetProfile, place: Place, show: Show, to: Path) -> Packed:
    """Prepare a recipe for a target and write what measures it there into `to` (new or empty).

    The target is not reached, so it needs no connection. Raises `UserError` when `to` is not
    empty, or nothing could be prepared.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError("is not empty", where=str(to), mend="name a new folder")
    # What to train cannot wait for what the device says: everything is made.
    recipe = dataclasses.replace(recipe, search=SearchSpec())
    candidates = search.plan(recipe, target)
    spec = measure_spec(recipe, target)
    with tempfile.TemporaryDirectory() as home:
        run = Run(Path(home), resumed=False)
        with Crew(
            place.jobs, run.folder / "logs", lambda _job, _share: None, place.patience
        ) as crew:
            context = Context(recipe, target, spec, open_cache(place), run, crew, show, False)
            show("prepare", 0.0, recipe.title)
            check_metric(context)
            ready = prepare(context, candidates)
            inputs = split(context, "validation").inputs
        show("prepare", 1.0, recipe.title)
    compiled = [p.compiled for p in ready if p.compiled is not None]
    reference = next(c for c in compiled if c.candidate.compression.is_dense)
    with files.said(to):
        to.mkdir(parents=True, exist_ok=True)
    size = measure.pack(compiled, reference, target, spec, inputs, to)
    _register(recipe, target, compiled, place, to)
    failed = tuple(p for p in ready if p.failure is not None)
    return Packed(to, size, len({c.digest for c in compiled}), failed)


def unpack(folder: Path, place: Place, show: Show) -> Outcome:
    """Return the run made of a folder that came back: report, decision and all.

    Raises `UserError` when the folder was not packed here or other artifacts would be made of
    the recipe now, `TargetError` when it was not measured to its end.
    """
    record = _record(folder, place)
    if record["job"] != file_digest(folder / "job.json"):
        raise UserError(
            "job.json is not what was packed", where=str(folder), mend="pack and measure it again"
        )
    if record["stamp"] != stamp():
        raise UserError(
            "another version of hwbench (or of its libraries) packed it",
            where=str(folder),
            expected="the version that compiled the artifacts",
            mend="unpack with that version, or pack and measure again",
        )
    target = from_json(TargetProfile, record["target"])
    connection = PluginSpec(parcel.KIND, {"folder": str(folder.absolute())})
    recipe = from_json(Recipe, record["recipe"])
    return bench(recipe, dataclasses.replace(target, connection=connection), place, show)


def _register(
    recipe: Recipe,
    target: TargetProfile,
    compiled: Sequence[CompiledModel],
    place: Place,
    folder: Path,
) -> None:
    """Keep here what was packed, and leave in the folder only the name of that record."""
    record = {
        "format": FORMAT,
        "recipe": to_json(recipe),
        "target": to_json(target),
        "artifacts": sorted({c.digest for c in compiled}),
        "stamp": stamp(),
        "job": file_digest(folder / "job.json"),
        "packed": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    key = digest(record)
    files.write(_home(place, key), json.dumps(record, indent=1))
    said = {
        "format": FORMAT,
        "parcel": key,
        "recipe": recipe.name,
        "target": target.name,
        "packed": record["packed"],
    }
    files.write(folder / _NAME, json.dumps(said, indent=1))


def _record(folder: Path, place: Place) -> dict[str, object]:
    key = str(read_json(folder / _NAME).get("parcel"))
    if not key.isalnum() or not _home(place, key).exists():
        raise UserError(
            "was not packed here",
            where=str(folder),
            expected=f"its record under {place.cache / 'parcels'}",
            mend="unpack it in the checkout (and with the --cache) that packed it",
        )
    return read_json(_home(place, key))


def _home(place: Place, key: str) -> Path:
    return place.cache.absolute() / "parcels" / f"{key}.json"
