"""The history as tables: a row a reading, a row a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.records import Change
from hwbench.studies.nightly.history.files import paths, read

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "target", "recipe", "number", "run", "started", "commit", "segment", "candidate", "metric",
    "status", "before", "now", "ratio", "low", "high", "again_ratio", "again_low", "again_high",
    "floor", "reason",
)  # fmt: skip
_PLAIN = ("candidate", "metric", "status", "floor", "reason")
_HEAD = ("number", "run", "started", "commit")
_SESSION = ("ratio", "low", "high")


@dataclass(frozen=True, slots=True)
class History:
    """All nights: ``readings`` has the `COLUMNS`, ``pairs`` a row for every pair of a night.

    Both are in the order of the nights. ``nights`` are the heads by run; ``problems`` says in
    sentences what could not be read.
    """

    readings: pd.DataFrame
    pairs: pd.DataFrame
    nights: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...]

    def last(self, target: str, recipe: str) -> Mapping[str, Any] | None:
        """Return the newest pair that was measured, as it was written, or None."""
        if self.pairs.empty:
            return None
        rows = self.pairs
        measured = rows[(rows.target == target) & (rows.recipe == recipe) & rows.measured]
        if measured.empty:
            return None
        return {str(key): value for key, value in measured.iloc[-1].items()}


def load(root: Path, target: str = "*") -> History:
    """Return everything in the history folder (of one target), what is broken left out."""
    import pandas as pd

    problems: list[str] = []
    readings: list[tuple[Any, ...]] = []
    pairs: list[dict[str, Any]] = []
    nights: dict[str, Mapping[str, Any]] = {}
    for path in paths(root, target):
        where = path.parent.name
        head: Mapping[str, Any] = {}
        segments: dict[str, str] = {}
        for kind, data in read(path, problems.append):
            if kind == "night":
                head = data["night"]
                nights.setdefault(head["run"], head)
            elif kind == "pair":
                entry = data["pair"]
                segments[entry["recipe"]] = entry["segment"]
                pairs.append({**entry, **{key: head[key] for key in _HEAD}})
            else:
                recipe = data["recipe"]
                place = (where, recipe, head["number"], head["run"], head["started"])
                segment = segments.get(recipe, "")
                readings.append((*place, head["commit"], segment, *_cells(data["reading"])))
    frame = pd.DataFrame.from_records(readings, columns=list(COLUMNS))
    table = pd.DataFrame.from_records(pairs)
    return History(
        frame.sort_values(["number", "started"], kind="stable", ignore_index=True),
        table if table.empty else table.sort_values(["number", "started"], kind="stable"),
        nights,
        tuple(problems),
    )


def _cells(reading: Mapping[str, Any]) -> tuple[Any, ...]:
    first, again = reading["first"], reading["again"] or {}
    return (
        *(reading[k] for k in _PLAIN[:3]),
        first["before"],
        first["now"],
        *(first[k] for k in _SESSION),
        *(again.get(k) for k in _SESSION),
        *(reading[k] for k in _PLAIN[3:]),
    )


def series(
    past: History, target: str, recipe: str, segment: str
) -> dict[tuple[str, str], list[tuple[int, Change, Change | None]]]:
    """Return the nights of one segment by (candidate, metric): (number, first, again)."""
    rows = past.readings
    readings = rows[(rows.target == target) & (rows.recipe == recipe) & (rows.segment == segment)]
    nights: dict[tuple[str, str], list[tuple[int, Change, Change | None]]] = {}
    plain: Any = readings.astype(object).where(readings.notna(), None)
    for row in plain.itertuples(index=False):
        first = Change(row.before, row.now, row.ratio, row.low, row.high)
        again = None
        if row.again_ratio is not None:
            again = Change(None, None, row.again_ratio, row.again_low, row.again_high)
        nights.setdefault((row.candidate, row.metric), []).append((int(row.number), first, again))
    return nights
