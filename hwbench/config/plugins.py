"""Plug-in options as part of the YAML: each plug-in's ``Options`` dataclass becomes a model."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, create_model

from hwbench.config import door
from hwbench.config.catalogue import option_docs
from hwbench.errors import UserError
from hwbench.records import PluginSpec, file_digest
from hwbench.registry import Family

AnyFamily = Family[Any, Any]

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


@cache
def options_model(family: AnyFamily, name: str, tagged: bool) -> type[BaseModel]:
    """Return the model of a plug-in's options, with a ``kind`` in front when `tagged`."""
    options = family.plugin(name).options
    hints, docs = typing.get_type_hints(options), option_docs(options)
    fields: dict[str, Any] = {"kind": (Literal[name], ...)} if tagged else {}
    for field in dataclasses.fields(options):
        doc = docs.get(field.name)
        if field.default is not dataclasses.MISSING:
            default = Field(field.default, description=doc)
        elif field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory, description=doc)
        else:
            default = Field(description=doc)
        kind = hints[field.name]
        if kind is Path or typing.get_origin(kind) is tuple:
            # YAML has no paths and no tuples: read them from strings and lists.
            kind = Annotated[kind, Field(strict=False)]
        fields[field.name] = (kind, default)
    doc = inspect.getdoc(options) or ""
    return create_model(f"plugin:{name}", __config__=_STRICT, __doc__=doc, **fields)


def one_of(family: AnyFamily) -> Any:
    """Return the annotation of a plug-in named by ``kind``: ``{kind: p32, train: 2000}``."""
    models = tuple(options_model(family, name, True) for name in family.kinds())
    if len(models) == 1:
        return models[0]
    return Annotated[Union[models], Field(discriminator="kind")]  # noqa: UP007  (dynamic)


def table_of(family: AnyFamily, *, several: bool = False) -> type[BaseModel]:
    """Return the model of a mapping from plug-in names to their options: ``{tvm: {}}``.

    With `several`, one name may have a list of them: ``{torch: [{mode: eager}, {mode: graph}]}``.
    """
    fields: dict[str, Any] = {}
    for name in family.kinds():
        model: Any = options_model(family, name, False)
        fields[name] = (model | list[model] | None if several else model | None, None)
    return create_model(f"{family.group}_table", __config__=_STRICT, **fields)


def spec_of(model: BaseModel, folder: Path) -> PluginSpec:
    """Return the `PluginSpec` of a tagged model; relative paths are taken from `folder`."""
    data = {name: _plain(value, folder) for name, value in model if name != "kind"}
    return PluginSpec(kind=str(getattr(model, "kind")), options=data)  # noqa: B009


def specs_of(table: BaseModel, folder: Path, *, defaults: bool) -> tuple[PluginSpec, ...]:
    """Return the `PluginSpec` of every plug-in that a table names, in the order of their names.

    With `defaults`, options that are not written are filled in; without, only what is written is
    there, to be laid on top of somebody else's.
    """
    specs = []
    for name in type(table).model_fields:
        given = getattr(table, name)
        if given is None:
            continue
        for options in given if isinstance(given, list) else [given]:
            wanted = type(options).model_fields if defaults else options.model_fields_set
            written = {key: _plain(getattr(options, key), folder) for key in sorted(wanted)}
            specs.append(PluginSpec(name, written))
    return tuple(specs)


def checked(family: AnyFamily, name: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return those of a plug-in's options that are not its defaults, in order of their names.

    Raises `UserError` at `where`.
    """
    found = door.check(options_model(family, name, False), dict(options), where)
    return dict(sorted(found.model_dump(exclude_defaults=True).items()))


def files_digest(options: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> str:
    """Return a content hash of the files that options of type `Path` name ("" if none).

    A Python file counts with the files beside it that it imports, and with what those import.
    """
    named: list[str] = []
    for name, kind in kinds.items():
        if kind is Path and options[name]:
            named.append(options[name])
        elif kind == tuple[Path, ...]:
            named += options[name]
    paths = [Path(name) for name in named]
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"there is no file {path}", where=where, mend="paths count from the recipe's folder"
            )
    found: dict[Path, None] = {}
    for path in paths:
        _with_imports(path, found)
    return file_digest(*found) if found else ""


def _with_imports(path: Path, found: dict[Path, None]) -> None:
    """Add a file to `found`, and the Python files beside it that it imports."""
    if path in found:
        return
    found[path] = None
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # the workload itself will say so, with the line
    names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    for name in sorted(names):
        place = path.parent / name.split(".")[0]
        beside = [place.with_suffix(".py"), *sorted(place.rglob("*.py"))]
        for other in beside:
            if other.is_file():
                _with_imports(other, found)


def option_kinds(family: AnyFamily, name: str) -> dict[str, Any]:
    """Return the type of each option of a plug-in."""
    return typing.get_type_hints(family.plugin(name).options)


def _plain(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return str(value if value.is_absolute() else (folder / value).resolve())
    return [_plain(v, folder) for v in value] if isinstance(value, tuple | list) else value
