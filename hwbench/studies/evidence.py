"""Where the numbers of a study come from: a device that is there, or predictions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hwbench.pipeline.prepare import Prepared, Ready
from hwbench.pipeline.scoring import Judged
from hwbench.pipeline.session import Context
from hwbench.records import Conditions, Decision, Recipe, Result, Source, Strategy


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of every candidate, and what stands behind all of them.

    ``outputs``: the files with what artifacts answered to the validation split, by artifact.
    ``trusted`` is False when the session could not tell the reference from its own copy.
    """

    results: Sequence[Result]
    notes: tuple[str, ...]
    conditions: Conditions | None = None
    outputs: Mapping[str, Path | None] = field(default_factory=dict)
    trusted: bool = True


@dataclass(slots=True)
class Phases:
    """What the phases of a study took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Note how long the block takes."""
        since = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - since, 1)


class Evidence(Protocol):
    """What a study rests on; ``source`` is that of its numbers."""

    source: Source

    def strategy(self, recipe: Recipe) -> Strategy:
        """Return how to search by it."""

    def judged(self, context: Context, prepared: Sequence[Prepared], phases: Phases) -> Seen:
        """Return the result of every candidate."""

    def confirmed(
        self,
        context: Context,
        results: Sequence[Result],
        decision: Decision,
        ready: Sequence[Ready],
    ) -> tuple[Sequence[Result], Decision, tuple[str, ...]]:
        """Return results and decision after a closer look at those that matter, and notes."""

    def scores(self, context: Context, ready: Sequence[Ready], split: str) -> Mapping[str, Judged]:
        """Return the score on a split by candidate key.

        Raises `UserError` or `StageError` when the split cannot be read.
        """
