"""Samplers against each other on a table of finished evaluations: who finds the front sooner?

No candidate is evaluated here: the table is the history of a search that tried them all
(``search.jsonl`` of a run with the grid), so a race of hundreds of trials takes seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench import stats
from hwbench.protocols import Sampler
from hwbench.records import Point
from hwbench.registry import SAMPLERS


@dataclass(frozen=True, slots=True)
class Entry:
    """One evaluated candidate: where it lies and what it costs (None: it failed)."""

    point: Point
    costs: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Ran:
    """One sampler's runs: the share of the whole table's hypervolume at the end, by seed."""

    sampler: str
    options: Mapping[str, Any]
    trials: int
    shares: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the shares."""
        return statistics.median(self.shares)


def run(table: Sequence[Entry], sampler: Sampler, trials: int) -> list[float]:
    """Return the share of the table's hypervolume that is found after each trial."""
    alive = [entry.costs for entry in table if entry.costs is not None]
    whole = stats.ruled(alive)
    names = list(alive[0]) if alive else []
    sampler.begin([entry.point for entry in table], len(names))
    known: list[Mapping[str, float]] = []
    shares: list[float] = []
    while len(shares) < trials and (index := sampler.ask()) is not None:
        costs = table[index].costs
        sampler.tell(index, None if costs is None else [costs[name] for name in names])
        if costs is not None:
            known.append(costs)
        shares.append(stats.ruled(known) / whole if whole else 0.0)
    return shares


def race(
    table: Sequence[Entry],
    entrants: Sequence[tuple[str, Mapping[str, Any]]],
    trials: int,
    seeds: Sequence[int],
) -> list[Ran]:
    """Return how far each sampler comes with so many trials, for every seed."""
    ran = []
    for kind, options in entrants:
        shares = tuple(
            run(table, SAMPLERS.create(kind, {**options, "seed": seed}), trials)[-1]
            for seed in seeds
        )
        ran.append(Ran(kind, options, trials, shares))
    return ran
