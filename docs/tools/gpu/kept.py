"""Lines of JSON that any stop leaves readable: what the scripts of this folder keep."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hwbench import files


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a file; a line that a stop cut off is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add an entry to a file and see it on disk."""
    files.append(path, json.dumps(entry))
