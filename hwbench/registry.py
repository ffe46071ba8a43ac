"""Plug-ins by name: the file name is the registered name.

A plug-in is one file in its folder (``hwbench/backends/NAME.py``) with

- ``REQUIRES``: ``{import name: pip requirement}``, turned into a hint when something is missing;
- ``Options``: a frozen dataclass, the schema and documentation of its YAML keys;
- ``PLUGIN``: the class, annotated with its protocol (``PLUGIN: type[Backend] = TheClass``).

Outside packages register a module of the same form under the entry-point group
``hwbench.backends`` (or ``.pruners``, ``.connections``, ``.meters``, ``.workloads``,
``.samplers``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from hwbench.errors import UserError, did_you_mean

GROUPS = ("backends", "pruners", "connections", "meters", "workloads", "samplers")


def names(group: str) -> tuple[str, ...]:
    """Return the registered names of a group, sorted."""
    package = importlib.import_module(f"hwbench.{group}")
    own = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}
    return tuple(sorted(own | set(_outside(group))))


def module(group: str, name: str) -> ModuleType:
    """Return the module of a plug-in; raises `UserError` with a suggestion if there is none."""
    if name not in names(group):
        raise UserError(
            f"no plug-in {name!r} among the {group}", mend=did_you_mean(name, names(group))
        )
    outside = _outside(group)
    return importlib.import_module(outside.get(name, f"hwbench.{group}.{name}"))


def lacking(group: str, name: str) -> tuple[str, ...]:
    """Return the pip requirements of a plug-in that are not installed here."""
    requires: Mapping[str, str] = module(group, name).REQUIRES
    return tuple(pip for package, pip in requires.items() if not _installed(package))


def create(group: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Return a plug-in instance made with its options.

    Raises `UserError` for an unknown plug-in or option, or when a requirement is missing.
    """
    found = module(group, name)
    absent = lacking(group, name)
    if absent:
        raise UserError(
            f"the plug-in {name!r} ({group}) needs {', '.join(absent)}",
            mend=f"pip install {' '.join(absent)}",
        )
    known = set(found.Options.__dataclass_fields__)
    for key in options or {}:
        if key not in known:
            what = f"{group} {name!r} has no option {key!r}"
            raise UserError(what, mend=did_you_mean(key, known))
    return found.PLUGIN(found.Options(**(options or {})))


def _outside(group: str) -> dict[str, str]:
    points = importlib.metadata.entry_points(group=f"hwbench.{group}")
    return {point.name: point.value for point in points}


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
