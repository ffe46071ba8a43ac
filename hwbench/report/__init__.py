"""What a run leaves for people: a page, a picture, tables, and the decision in words.

Everything is derived from a `Study`; nothing here decides or measures.
"""

from __future__ import annotations

from pathlib import Path

from hwbench import files
from hwbench.records import Study
from hwbench.report.page import page
from hwbench.report.picture import picture
from hwbench.report.prose import decision_json, decision_markdown
from hwbench.report.table import csv, rows

__all__ = ["rows", "write"]


def write(study: Study, folder: Path) -> tuple[Path, ...]:
    """Write the report of a study into `folder` and return the paths of its files.

    ``report.html`` (self-contained), ``pareto.png``, ``results.csv``, ``decision.md`` and, last,
    ``decision.json``: whoever finds that one finds the others whole. Each is written at once or
    not at all; raises `UserError` when the folder is read-only or the disk full.
    """
    contents: dict[str, str | bytes] = {
        "report.html": page(study),
        "pareto.png": picture(study),
        "results.csv": csv(study),
        "decision.md": decision_markdown(study),
        "decision.json": decision_json(study),
    }
    for name, content in contents.items():
        files.write(folder / name, content)
    return tuple(folder / name for name in contents)
