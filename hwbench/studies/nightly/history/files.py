"""The files of the history: writing them once, and reading what is there, torn lines or not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwbench import files
from hwbench.errors import UserError
from hwbench.records import Night, Pin, from_json, to_json

FORMAT = 1
"""The version of the format that is written. Every older one is read: see `_UPGRADES`."""

_UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""What makes a line of an older format one of the next, by the older format's number.

A change of the format adds an entry here and a file to ``tests/data/history``.
"""
_NIGHT = re.compile(r"(\d+)-[\w.-]+\.jsonl")
Lines = Iterator[tuple[str, dict[str, Any]]]


def write(root: Path, night: Night, target: str) -> Path:
    """Write the pairs of one target as a file of its own and return its path.

    Raises `UserError` when the file exists: history is only added to.
    """
    path = root / target / f"{night.number:05}-{night.run}.jsonl"
    if path.exists():
        raise UserError("this night is in the history already", where=str(path))
    head = to_json(replace(night, pairs=()))
    lines: list[Mapping[str, Any]] = [{"format": FORMAT, "night": head}]
    for entry in night.pairs:
        if entry.target != target:
            continue
        lines.append({"pair": to_json(replace(entry, readings=()))})
        lines += [{"recipe": entry.recipe, "reading": to_json(r)} for r in entry.readings]
    files.write(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path


def paths(root: Path, target: str = "*") -> list[Path]:
    """Return the files of all nights (of one target), the oldest number first."""
    found = [p for p in root.glob(f"{target}/*.jsonl") if _NIGHT.fullmatch(p.name)]
    return sorted(found, key=lambda p: (_number(p), p.name, p.parent.name))


def next_number(root: Path) -> int:
    """Return the number of the next night: one more than the highest there is."""
    return max((_number(p) for p in paths(root)), default=0) + 1


def read(path: Path, complain: Callable[[str], None]) -> Lines:
    """Yield the lines of a file as (kind, data): ``night`` first, then pairs and readings.

    What cannot be read is told to `complain` and left out: a torn line, or the whole of a file
    without a head or of a newer hwbench.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        complain(f"{path}: cannot be read: {error}")
        return
    version: Any = None
    if not text.strip():
        complain(f"{path}: is empty")
    for number, line in enumerate(text.splitlines(), 1):
        data = _line(line)
        if data is None:
            complain(f"{path}:{number}: this line is broken and left out; the others count")
            continue
        if version is None:
            version = data.get("format")
            wrong = _unreadable(version, data)
            if wrong:
                complain(f"{path}: {wrong}")
                return
        for old in range(version, FORMAT):
            data = _UPGRADES[old](data)
        for kind in ("night", "pair", "reading"):
            if kind in data:
                yield kind, data


def _unreadable(version: Any, head: Mapping[str, Any]) -> str:
    """Return why a file with this head cannot be read; empty: it can."""
    if not isinstance(version, int) or "night" not in head:
        return "has no readable head, so nothing in it can be placed"
    if version > FORMAT:
        return (
            f"was written by a newer hwbench (format {version}, this one reads up to {FORMAT}): "
            "left out; upgrade hwbench"
        )
    return ""


def _line(line: str) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
    except json.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None


def _number(path: Path) -> int:
    match = _NIGHT.fullmatch(path.name)
    return int(match[1]) if match else 0


# --------------------------------------------------------------------------------------------
# pins


def pin(root: Path, pinned: Pin) -> Path:
    """Write down that artifacts are a baseline from now on; return the file."""
    name = f"{pinned.recipe}-{pinned.number:04}-{pinned.artifacts}.json"
    path = root / pinned.target / "pins" / name
    if path.exists():
        raise UserError("this baseline is pinned already", where=str(path))
    files.write(path, json.dumps({"format": FORMAT, "pin": to_json(pinned)}, indent=1))
    return path


def load_pins(root: Path, target: str, recipe: str) -> list[Pin]:
    """Return the baselines that a recipe had on a target, the newest last.

    Raises `UserError` for a file that cannot be read: comparing with another baseline than the
    one that was meant would be worse than not comparing.
    """
    pins = []
    for path in sorted((root / target / "pins").glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data["format"]
            if version > FORMAT:
                raise UserError(
                    f"was written by a newer hwbench (format {version})",
                    where=str(path),
                    mend="upgrade hwbench",
                )
            record = from_json(Pin, data["pin"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"is no pinned baseline: {error}",
                where=str(path),
                mend="restore the file, or remove it and pin again: hwbench baseline set",
            ) from error
        if record.recipe == recipe:
            pins.append(record)
    return sorted(pins, key=lambda p: (p.number, p.at))
