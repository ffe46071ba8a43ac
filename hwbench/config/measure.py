"""How to measure, as written: a named policy, and what differs from it."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hwbench.errors import UserError, did_you_mean
from hwbench.records import MeasureSpec

POLICIES = {
    "quick": MeasureSpec(policy="quick"),
    "standard": MeasureSpec(policy="standard", generations=14, half_width=0.01, max_time=900.0),
    "publish": MeasureSpec(
        policy="publish",
        generations=30,
        looks=(12, 25),
        half_width=0.005,
        energy_seconds=10.0,
        readings=3,
        max_time=3600.0,
    ),
}


class MeasureFields(BaseModel):
    """Fields of a measuring policy that differ from it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    generations: int | None = Field(None, ge=1, description="fresh processes of everyone, at most")
    looks: list[int] | None = Field(None, min_length=1, description="rounds after which to judge")
    half_width: float | None = Field(None, gt=0, lt=1, description="stop at this precision")
    visit_seconds: float | None = Field(None, gt=0)
    min_calls: int | None = Field(None, ge=3)
    max_calls: int | None = Field(None, ge=3)
    warmup_calls: int | None = Field(None, ge=1)
    warmup_seconds: float | None = Field(None, gt=0)
    memory_runs: int | None = Field(None, ge=1)
    energy_seconds: float | None = Field(None, gt=0, description="length of the energy window")
    timeout: float | None = Field(None, gt=0, description="seconds without an answer: it hangs")
    max_time: float | None = Field(None, gt=0, description="seconds of one measuring session")
    seed: int | None = Field(None, ge=0)
    readings: int | None = Field(None, ge=1, description="of memory and energy each")
    eliminate: bool | None = Field(None, description="measure who is beaten in all no further")

    roofline: bool | None = Field(None, description="time every layer alone, after the energy")

    def changes(self, where: str) -> dict[str, Any]:
        """Return the fields written, ready for `MeasureSpec`."""
        written = self.model_dump(exclude={"policy"}, exclude_none=True)
        looks = written.get("looks")
        if looks is not None and (looks != sorted(set(looks)) or looks[0] < 1):
            raise UserError(f"{looks} must grow, from 1 on", where=f"{where}.looks")
        return {k: tuple(v) if isinstance(v, list) else v for k, v in written.items()}


class MeasureTable(MeasureFields):
    """A policy (quick, standard, publish) and what differs from it."""

    policy: str = Field("quick", description="quick: explore; standard: decide; publish: quote")

    def record(self, where: str) -> MeasureSpec:
        """Return the named policy with what is written beside it."""
        if self.policy not in POLICIES:
            mend = did_you_mean(self.policy, POLICIES)
            raise UserError(f"unknown policy {self.policy!r}", where=f"{where}.policy", mend=mend)
        return dataclasses.replace(POLICIES[self.policy], **self.changes(where))
