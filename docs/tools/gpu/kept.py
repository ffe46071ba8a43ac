"""Lines of JSON that any stop leaves readable: what the scripts of this folder keep."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file; one that a stop cut off is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add a line to a file and see it on disk."""
    with path.open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
