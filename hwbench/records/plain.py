"""Records as plain JSON data and back, and their content hash."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar

from hwbench.errors import UserError

R = TypeVar("R")

UNSAID = "unsaid"
"""Mark, in a field's metadata, of one that is left out of JSON and hashes at its default.

A field that came later is marked: without it, what was written and hashed before stays true.
"""


def to_json(value: Any, path: Callable[[Path], str] = str) -> Any:
    """Return `value` as plain JSON data: dicts, lists, strings, numbers, booleans, None.

    `path` says how a path is written: as it is, unless whoever keeps the data may be moved.
    """
    return _plain(value, path, decides=False)


def _plain(value: Any, path: Callable[[Path], str], *, decides: bool) -> Any:
    """Return plain data; where it `decides`, without fields that two equal records may differ in.

    Such a field (``compare=False``) is left out as well while it says nothing (None).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _plain(content, path, decides=decides)
            for f in dataclasses.fields(value)
            if (content := getattr(value, f.name)) is not None or f.compare
            if f.compare or not decides
            if not (f.metadata.get(UNSAID) and content == f.default)
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return path(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, path, decides=decides) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, path, decides=decides) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} does not go into a record")


def from_json(kind: type[R], data: Any, path: Callable[[str], Path] = Path) -> R:
    """Return the record of type `kind` that `to_json` turned into `data`.

    `path` reads what `to_json` wrote of a path. Raises `UserError` when the data does not fit,
    for example when a newer hwbench wrote it.
    """
    try:
        return typing.cast(R, _revive(kind, data, path))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"cannot read a {kind.__name__} record: {error}",
            mend="was it written by another version of hwbench? Run the bench again",
        ) from error


def _revive(  # noqa: C901, PLR0911  (one return a kind reads best)
    kind: Any, data: Any, path: Callable[[str], Path]
) -> Any:
    if kind is Any or data is None:
        return data
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        return _revive(next(a for a in args if a is not type(None)), data, path)
    if origin is tuple:
        return tuple(_revive(args[0], v, path) for v in data)
    if origin in (Mapping, dict):
        return {k: _revive(args[1], v, path) for k, v in data.items()}
    if origin is Literal:
        if data not in args:
            raise ValueError(f"{data!r} is not one of {args}")
        return data
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        unknown = set(data) - set(hints)
        if unknown:
            raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
        return kind(**{name: _revive(hints[name], v, path) for name, v in data.items()})
    if isinstance(kind, type) and issubclass(kind, Path):
        return path(data)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(data)
    return float(data) if kind is float else data


def digest(value: Any) -> str:
    """Return a 16-digit content hash of a record or of plain data (SHA-256, canonical JSON)."""
    data = _plain(value, str, decides=True)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(*paths: Path) -> str:
    """Return a 16-digit content hash of files, in the order given (names do not count)."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()[:16]
