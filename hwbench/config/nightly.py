"""What runs every night, as written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hwbench import units
from hwbench.config.measure import MeasureTable
from hwbench.errors import UserError, did_you_mean
from hwbench.records import METRICS, NightlyPlan

PREFIX = "nightly"
"""Files in ``recipes/`` whose names begin so are plans of nights, not recipes."""


class NightlyFile(BaseModel):
    """All pairs of these recipes and targets are held against their pinned baselines."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1] = Field(description="the version of this format")
    title: str = ""
    recipes: list[str] = Field(min_length=1, description="files in recipes/, or paths to them")
    targets: list[str] = Field(min_length=1, description="files in targets/, or paths to them")
    floors: dict[str, str | float] = Field(
        default_factory=dict,
        description="by metric: less than this is no change, such as {latency_p50: 2%}",
    )
    measure: MeasureTable = Field(
        default_factory=lambda: MeasureTable(policy="standard"),
        description="how each of a night's sessions is run",
    )


def build(file: NightlyFile, path: Path) -> NightlyPlan:
    """Return the checked plan; raises `UserError` for an unknown metric or a wrong floor."""
    floors = {}
    for metric, written in file.floors.items():
        where = f"{path}: floors.{metric}"
        if metric not in METRICS:
            mend = did_you_mean(metric, METRICS)
            raise UserError(f"unknown metric {metric!r}", where=where, mend=mend)
        floors[metric] = units.parse(written, "fraction", where=where)
        if not 0.0 < floors[metric] < 1.0:
            raise UserError(f"{written!r} is no floor", where=where, expected="such as 2%")
    return NightlyPlan(
        name=path.stem,
        title=file.title or path.stem,
        recipes=tuple(dict.fromkeys(file.recipes)),
        targets=tuple(dict.fromkeys(file.targets)),
        floors=floors,
        measure=file.measure.record(f"{path}: measure"),
    )
