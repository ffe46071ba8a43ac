"""The latency pass: generations in groups that fit the memory, and whether R and S agree."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hwbench import stats
from hwbench.errors import StageError
from hwbench.measurement import generation, precision
from hwbench.measurement.device import Device
from hwbench.measurement.generation import REFERENCE, SHADOW, Generation
from hwbench.records import Failure, MeasureSpec, Process
from hwbench.worker.messages import Job, Settings

_MEMORY_SHARE = 0.6
_DECIDE = 0.99
_ELIMINATE = 0.999
_TORN = 0.05
"""How far R and S may lie apart in a generation that counts."""
_FEWEST = 2
"""Generations that everyone is measured in."""


@dataclass(frozen=True, slots=True)
class Latency:
    """What the latency pass gave, by role or artifact.

    ``strangers``: the most processes that were on the GPU between generations.
    """

    reference: tuple[Process, ...]
    shadow: tuple[Process, ...]
    candidates: Mapping[str, tuple[Process, ...]]
    failures: Mapping[str, Failure]
    valid: bool
    notes: tuple[str, ...]
    strangers: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """A memory that resident artifacts share: so many bytes are free, a job needs so many."""

    free: int
    need: Mapping[str, int]

    def holds(self, jobs: Sequence[Job]) -> bool:
        """Whether they fit, with room to spare."""
        return sum(self.need[job.name] for job in jobs) <= self.free * _MEMORY_SHARE


@dataclass(frozen=True, slots=True)
class Latencies:
    """The latency pass of one sitting: what it runs, and where its raw samples go.

    ``jobs`` are the candidates', ``pair`` R's and S's; ``rooms`` are the memories that all of them
    must fit into. ``deadline`` is on the monotonic clock. ``others`` holds
    what is known of the candidates besides their time (less is better), with its uncertainty;
    who is worse than another in all of it and in time is not measured further, unless in ``keep``.
    """

    device: Device
    folder: Path
    spec: MeasureSpec
    settings: Settings
    pair: tuple[Job, Job]
    jobs: Sequence[Job]
    artifact: str
    rooms: Sequence[Room]
    deadline: float
    progress: Callable[[float, str], None]
    others: Mapping[str, Mapping[str, stats.Interval]] = field(default_factory=dict)
    keep: frozenset[str] = frozenset()

    def run(self) -> Latency:
        """Return every process of the valid attempt, or of the last one."""
        for attempt in range(self.device.attempts):
            notes: list[str] = []
            made = self._attempt(attempt, notes)
            result = _gathered(made, self.spec, notes)
            if result.valid or time.monotonic() > self.deadline:
                break
        if not result.valid:
            again = " (repeated once)" if attempt else ""
            notes.append(f"not valid: R and its copy S differ beyond the margin{again}")
        elif attempt:
            notes.append("repeated once: R and its copy S differed in the first attempt")
        return replace(result, notes=tuple(notes))

    def _groups(self) -> list[list[Job]]:
        """Return who is measured together: as it was packed, or as many as the memory holds."""
        if self.device.traits.offline:
            return [[j for j in self.jobs if j.name in names] for names in self.device.groups]
        return grouped(self.jobs, self.pair, self.rooms)

    def _attempt(self, attempt: int, notes: list[str]) -> list[Generation]:
        groups = self._groups()
        planned = self.spec.generations * len(groups)
        if len(groups) > 1:
            notes.append(f"measured in {len(groups)} groups: the memory does not hold all at once")
        made: list[Generation] = []
        broken: set[str] = set()
        beaten: dict[str, str] = {}
        # A parcel holds as many generations as it holds.
        spare = planned // 2 if self.device.attempts > 1 else 0
        torn = 0
        while len(made) < planned:
            number = len(made) + torn
            file = self.folder / f"latency-{attempt}-{number:02}.jsonl"
            found = generation.saved(file)
            if found is None:
                left = self.deadline - time.monotonic()
                # Every group is measured once, whatever the time: no candidate goes without.
                if left <= 0 and len(made) >= len(groups):
                    notes.append(f"stopped after {len(made)} of {planned} generations: max_time")
                    break
                share = (len(made) + attempt * planned) / (planned * (attempt + 1))
                self.progress(share, f"latency, generation {len(made) + 1} of {planned}")
                jobs = [
                    j
                    for j in groups[len(made) % len(groups)]
                    if j.name not in broken and j.name not in beaten
                ]
                found = self._generation(attempt, number, jobs, max(left, 0.0))
                found.save(file)
            broken |= set(found.failures)
            if torn < spare and is_torn(found) and not found.failures:
                torn += 1
                continue
            made.append(found)
            if self.spec.eliminate:
                beaten |= beaten_by(made, self.others, self.keep)
            # After whole turns of all groups alone: everyone has as many generations.
            if len(made) % len(groups) == 0 and precision.settled(
                [p for g in made for p in g.processes], broken | set(beaten), self.spec.half_width
            ):
                break
        if torn:
            notes.append(
                f"{torn} generations were made again: R and its copy S, the same bytes, were more "
                f"than {_TORN:.0%} apart in them"
            )
        if beaten:
            notes.append(
                f"{len(beaten)} artifacts were measured less often: worse than another in all that "
                "was known by then"
            )
        return made

    def _generation(
        self, attempt: int, number: int, jobs: Sequence[Job], seconds: float
    ) -> Generation:
        artifacts = {job.name: job.name for job in jobs}
        artifacts |= {REFERENCE: self.artifact, SHADOW: self.artifact}
        # Another attempt is another order and other environments.
        settings = replace(self.settings, seed=self.settings.seed + attempt)
        jobs = (*self.pair, *jobs)
        return generation.run(self.device, jobs, artifacts, number, self.spec, settings, seconds)


def is_torn(made: Generation) -> bool:
    """Return whether R and S, which are identical, were far apart in a generation.

    Now and then a process is slow for good (by 30 % seen), whatever it runs. If it is R's, all
    ratios of its generation are off alike. Which candidate it flatters plays no part here.
    """
    shadow = [p for p in made.processes if p.role == SHADOW]
    reference = [p for p in made.processes if p.role == REFERENCE]
    each = stats.by_generation(shadow, reference)
    return any(abs(math.log(ratio)) > _TORN for ratio in each.values())


def grouped(jobs: Sequence[Job], pair: Sequence[Job], rooms: Sequence[Room]) -> list[list[Job]]:
    """Return the candidates in as few groups as fit into all free memories beside R and S."""
    groups: list[list[Job]] = [[]]
    for job in jobs:
        if groups[-1] and not all(room.holds([*pair, *groups[-1], job]) for room in rooms):
            groups.append([])
        groups[-1].append(job)
    return groups


def agree(
    shadow: Sequence[Process],
    reference: Sequence[Process],
    others: Sequence[Sequence[Process]],
    margin: float,
) -> bool:
    """Return whether S, a copy of R, came out as 1: not beyond the margin by its 99 % interval."""
    spread = stats.pooled_spread([*others, shadow], reference)
    try:
        found = stats.ratio(shadow, reference, _DECIDE, spread)
    except StageError:  # not one round that both came through clean
        return False
    return found.low <= 1.0 + margin and found.high >= 1.0 / (1.0 + margin)


def beaten_by(
    made: Sequence[Generation],
    others: Mapping[str, Mapping[str, stats.Interval]],
    keep: frozenset[str],
) -> dict[str, str]:
    """Return who need not be measured further, with one that beats it in time and all else.

    By 99.9 % bounds, and from the second generation on: one process shows nothing of the next.
    """
    processes = [p for g in made for p in g.processes]
    reference = [p for p in processes if p.role == REFERENCE]
    mine: dict[str, list[Process]] = {}
    for process in processes:
        if process.role == "candidate" and process.artifact in others:
            mine.setdefault(process.artifact, []).append(process)
    seen = {name: group for name, group in mine.items() if len(group) >= _FEWEST}
    shadow = [p for p in processes if p.role == SHADOW]
    spread = stats.pooled_spread([*seen.values(), shadow], reference)
    bounds = {}
    for name, group in seen.items():
        try:
            time_ = stats.ratio(group, reference, _ELIMINATE, spread)
        except StageError:  # not one round that both came through clean
            continue
        bounds[name] = {**others[name], "time": time_}
    axes = {axis for known in bounds.values() for axis in known}
    found = stats.eliminated(bounds, dict.fromkeys(axes, "lower"))
    return {name: by for name, by in found.items() if name not in keep}


def _gathered(made: Sequence[Generation], spec: MeasureSpec, notes: list[str]) -> Latency:
    processes = [p for g in made for p in g.processes]
    reference = tuple(p for p in processes if p.role == REFERENCE)
    shadow = tuple(p for p in processes if p.role == SHADOW)
    candidates: dict[str, tuple[Process, ...]] = {}
    for process in processes:
        if process.role == "candidate":
            candidates[process.artifact] = (*candidates.get(process.artifact, ()), process)
    notes += _remarks(made, processes)
    return Latency(
        reference,
        shadow,
        candidates,
        {name: failure for g in made for name, failure in g.failures.items()},
        agree(shadow, reference, list(candidates.values()), spec.half_width),
        (),
        max((g.conditions.state.get("gpu_processes") or 0 for g in made), default=0),
    )


def _remarks(made: Sequence[Generation], processes: Sequence[Process]) -> list[str]:
    notes = []
    said = precision.words(processes)
    if said:
        notes.append(said)
    dropped = sum(p.dropped for p in processes)
    if dropped:
        total = dropped + sum(len(p.visits) for p in processes)
        why = "; ".join(sorted({t for g in made for t in g.taints})[:3])
        notes.append(f"{dropped} of {total} visits dropped: {why}")
    futile = {n for g in made for n, v in g.verdicts.items() if v == stats.Look.FUTILE}
    if futile:
        said = f"noise-limited, more rounds did not help: {len(futile)} artifacts"
        effect = precision.worst_effect(processes, futile)
        if effect is not None:
            said += f"; with them effects below {effect:.1%} are not seen"
        notes.append(said)
    if any(g.denormals != "flushed" for g in made):
        notes.append("denormals could not be flushed here: they may slow sparse models down")
    return notes
