"""What a run leaves for people: a page, a picture, tables, and the decision in words.

Everything is derived from a `Study`; nothing here decides or measures.
"""

from __future__ import annotations

from pathlib import Path

from hwbench import files
from hwbench.records import Study
from hwbench.report import roofline
from hwbench.report.page import page
from hwbench.report.picture import picture
from hwbench.report.prose import decision_json, decision_markdown
from hwbench.report.table import csv, rows

__all__ = ["decision_markdown", "picture", "rows", "write"]


def write(study: Study, folder: Path) -> tuple[Path, ...]:
    """Write the report of a study into `folder` and return the paths of its files.

    ``decision.md``, ``results.csv``, ``pareto.png``, where layers were timed ``roofline.png``,
    ``report.html`` (self-contained) and, last, ``decision.json``: whoever finds that one finds the
    others whole. The smallest come first: a full disk should not keep the decision back. Each is
    written at once or not at all; raises `UserError` when the folder is read-only or the disk full.
    """
    layers = roofline.picture(study)
    contents: dict[str, str | bytes] = {
        "decision.md": decision_markdown(study),
        "results.csv": csv(study),
        "pareto.png": picture(study),
        **({"roofline.png": layers} if layers is not None else {}),
        "report.html": page(study),
        "decision.json": decision_json(study),
    }
    for name, content in contents.items():
        files.write(folder / name, content)
    return tuple(folder / name for name in contents)
