"""The drawing of the house in docs/architecture.svg, made of what import-linter is told.

    python -m tests.house_map       # draw it again

Layers stand from top to bottom: a room may import what is below it, never what is beside it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
DRAWING = ROOT / "docs" / "architecture.svg"

_WIDTH, _MARGIN, _GAP = 1080, 24, 10
_HEIGHT, _STEP = 34, 54
_LABEL = 150
_LAYERS = {
    "cli": "what people type",
    "studies": "questions",
    "search": "what to try",
    "pipeline": "a candidate's way",
    "executor": "where work is done",
    "config": "rooms",
    "worker": "device, and shelf",
    "backends": "plug-ins",
    "kernels": "our own kernels",
    "registry": "who is there",
    "protocols": "what is promised",
    "conditions": "tools",
    "records": "what is handed on",
    "errors": "what goes wrong",
}
"""A layer in plain words, by its first room."""


def layers() -> list[list[str]]:
    """Return the rooms of each layer, the topmost first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    house = next(c for c in contracts if c["type"] == "layers")
    return [[room.strip() for room in line.split("|")] for line in house["layers"]]


def rooms() -> set[str]:
    """Return every folder and module of the package."""
    package = ROOT / "hwbench"
    folders = {p.parent.name for p in package.glob("*/__init__.py")}
    return folders | {p.stem for p in package.glob("*.py") if not p.stem.startswith("__")}


def drawing() -> str:
    """Return the drawing as SVG."""
    rows = [_row(number, row) for number, row in enumerate(layers())]
    height = 2 * _MARGIN + _STEP * len(rows)
    style = (
        "text{font:14px sans-serif;fill:#1f2328}.layer{fill:#59636e}"
        "rect.room{fill:#eef4fb;stroke:#54728f}"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">\n'
        "<title>The layers of hwbench: each imports only from those below it</title>\n"
        f"<style>{style}</style>\n"
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n'
    )
    return head + "\n".join(rows) + "\n</svg>\n"


def _row(number: int, row: list[str]) -> str:
    top = _MARGIN + number * _STEP
    middle = top + _HEIGHT // 2 + 5
    left = _MARGIN + _LABEL
    wide = (_WIDTH - _MARGIN - left - _GAP * (len(row) - 1)) / len(row)
    name = _LAYERS.get(row[0], "")
    parts = [f'<text class="layer" x="{_MARGIN}" y="{middle}">{escape(name)}</text>']
    for place, room in enumerate(row):
        x = left + place * (wide + _GAP)
        parts.append(
            f'<rect class="room" x="{x:.1f}" y="{top}" width="{wide:.1f}" height="{_HEIGHT}"'
            ' rx="4"/>'
            f'<text x="{x + wide / 2:.1f}" y="{middle}" text-anchor="middle">{escape(room)}</text>'
        )
    return "\n".join(parts)


if __name__ == "__main__":
    DRAWING.write_text(drawing())
