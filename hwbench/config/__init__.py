"""The front door: YAML and command-line overrides in, checked frozen records out.

The only user of pydantic and yaml. Everything wrong with what a user wrote is said here, with
the file, the key, what was expected and how to mend it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import hwbench
from hwbench.config import door, hosts
from hwbench.config.catalogue import described, kinds, plugin_kinds
from hwbench.config.measure import MeasureTable
from hwbench.config.nightly import PREFIX, NightlyFile
from hwbench.config.nightly import build as build_nightly
from hwbench.config.recipe import GoalTable, RecipeFile, build_goals
from hwbench.config.recipe import build as build_recipe
from hwbench.config.target import TargetFile
from hwbench.config.target import build as build_target
from hwbench.errors import UserError, did_you_mean
from hwbench.records import Goal, MeasureSpec, NightlyPlan, Recipe, TargetProfile

__all__ = [
    "FILES",
    "described",
    "goals",
    "kinds",
    "known",
    "load_nightly",
    "load_recipe",
    "load_target",
    "plugin_kinds",
    "policy",
    "remember_host",
    "schema",
]

FILES: dict[str, type[BaseModel]] = {
    "recipe": RecipeFile,
    "target": TargetFile,
    "nightly": NightlyFile,
}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe called `name`: a path, or a file in ``recipes/`` without its suffix."""
    path = _find(name, "recipes")
    data = door.read(path)
    door.override(data, overrides)
    return build_recipe(door.check(RecipeFile, data, str(path)), path, path.stem)


def recipe_of(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a mapping, as its YAML file would have it; paths count from here."""
    copied = copy.deepcopy(dict(data))
    door.override(copied, overrides)
    name = "recipe"
    return build_recipe(
        door.check(RecipeFile, copied, f"the {name} given"), Path(f"{name}.yaml"), name
    )


def target_of(data: Mapping[str, Any], host: str = "") -> TargetProfile:
    """Return the target in a mapping, as its YAML file would have it; paths count from here."""
    copied = copy.deepcopy(dict(data))
    name = "target"
    return build_target(
        door.check(TargetFile, copied, f"the {name} given"), Path(f"{name}.yaml"), host
    )


def load_target(name: str, host: str = "") -> TargetProfile:
    """Return the target called `name`: a path, or a file in ``targets/`` without its suffix.

    `host` (``user@name``) says which board is meant, before all else that could say so.
    """
    path = _find(name, "targets")
    return build_target(door.check(TargetFile, door.read(path), str(path)), path, host)


def remember_host(target: str, host: str) -> Path:
    """Write a target's host into the user's own file; return its path."""
    return hosts.remember(target, host)


def load_nightly(name: str) -> NightlyPlan:
    """Return the nightly plan called `name`: a path, or a file in ``recipes/``."""
    path = _find(name, "recipes")
    return build_nightly(door.check(NightlyFile, door.read(path), str(path)), path)


def goals(text: str) -> tuple[Goal, ...]:
    """Return the goal in ``metric.kind=limit``, such as ``top1.max_drop=1pp``."""
    data: dict[str, Any] = {}
    door.override(data, [text], "--goal", "top1.max_drop=1pp")
    tables = {
        metric: door.check(GoalTable, table if isinstance(table, dict) else {}, f"goal {metric}")
        for metric, table in data.items()
    }
    return tuple(g for metric, t in tables.items() for g in build_goals(metric, t, "--goal"))


def policy(name: str, changes: Mapping[str, Any], max_time: float | None = None) -> MeasureSpec:
    """Return a named way to measure, with a target's `changes` and at most so many seconds."""
    found = MeasureTable(policy=name).record("--policy")
    given = {} if max_time is None else {"max_time": max_time}
    return dataclasses.replace(found, **{**changes, **given})


def known(folder: str) -> tuple[str, ...]:
    """Return the names of the YAML files in ``recipes`` or ``targets`` here."""
    found = {p.stem for place in _places(folder) for p in place.glob("*.yaml")}
    if folder == "recipes":
        found = {name for name in found if not name.startswith(PREFIX)}
    return tuple(sorted(found))


def schema(what: str) -> str:
    """Return the JSON Schema of a ``recipe`` or ``target`` file."""
    if what not in FILES:
        raise UserError(f"there is no schema of {what!r}", mend=did_you_mean(what, FILES))
    data: dict[str, Any] = FILES[what].model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **data}, indent=2)


def _find(name: str, folder: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        if not path.exists():
            mend = f"a path, or one of these names: {', '.join(known(folder))}"
            raise UserError(f"there is no file {name}", where=folder[:-1], mend=mend)
        return path
    for place in _places(folder):
        path = place / f"{name}.yaml"
        if path.exists():
            return path
    raise UserError(
        f"there is no {folder[:-1]} {name!r} in {folder}/",
        mend=did_you_mean(name, known(folder)),
    )


def _places(folder: str) -> list[Path]:
    """Return where files are looked for: here, then in the checkout that is installed."""
    return [Path(folder), Path(hwbench.__file__).parents[1] / folder]
