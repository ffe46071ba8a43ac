"""Doubles under the real protocol: what the doctor and the self-tests stand on.

The null backend is slow by a known amount, so what the protocol says about it can be checked.
Everything else is what a bench uses: the same worker, launcher, generations, rounds and looks.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench import registry, stats
from hwbench.measure import generation, precision
from hwbench.measure.device import Device
from hwbench.measure.generation import REFERENCE, SHADOW
from hwbench.measure.shipment import module_of, settings_of
from hwbench.protocols import Backend
from hwbench.records import Failure, MeasureSpec, PluginSpec, Process, TargetProfile
from hwbench.worker.messages import Job, Settings

SPINS = 25_000
"""Turns of a double's loop: about a millisecond, as a small model takes."""

Doubles = Mapping[str, Mapping[str, Any]]
"""Options of the null backend by name; ``spins`` is filled in."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a sitting of doubles gave: processes by name (R, S and each double), and failures."""

    reference: tuple[Process, ...]
    shadow: tuple[Process, ...]
    doubles: Mapping[str, tuple[Process, ...]]
    failures: Mapping[str, Failure]
    seconds: float

    def interval(self, name: str, confidence: float = 0.99) -> stats.Interval:
        """Return the ratio of a double to R; raises `StageError` when they never met."""
        others = [*self.doubles.values(), self.shadow]
        spread = stats.pooled_spread(others, self.reference)
        return stats.ratio(self.doubles[name], self.reference, confidence, spread)


def settings(spec: MeasureSpec, target: TargetProfile, affinity: Sequence[int] = ()) -> Settings:
    """Return how doubles are run: without inputs, on the cores given or the target's own."""
    usual = settings_of(spec, target, "")
    cores = tuple(affinity) or target.affinity
    return dataclasses.replace(usual, affinity=cores, side_by_side=1)


def run(
    device: Device,
    doubles: Doubles,
    spec: MeasureSpec,
    affinity: Sequence[int] = (),
    spins: int = SPINS,
) -> Trial:
    """Return what the protocol says about doubles, measured beside an R and an S of their kind.

    Raises `TargetError` when the device breaks off or R cannot be measured.
    """
    since = time.monotonic()
    entry = _shipped(device)
    jobs = {
        name: _job(name, entry, {"spins": spins, **options})
        for name, options in {REFERENCE: {}, SHADOW: {}, **doubles}.items()
    }
    found: dict[str, list[Process]] = defaultdict(list)
    failures: dict[str, Failure] = {}
    deadline = since + spec.max_time
    for number in range(spec.generations):
        left = deadline - time.monotonic()
        if number and left <= 0:
            break
        alive = [job for name, job in jobs.items() if name not in failures]
        made = generation.run(
            device,
            alive,
            {job.name: job.name for job in alive},
            number,
            spec,
            settings(spec, device.target, affinity),
            max(left, 1.0),
        )
        failures |= made.failures
        for process in made.processes:
            found[process.artifact].append(process)
        if precision.settled(_roles(found), set(failures), spec.half_width):
            break
    return Trial(
        tuple(found[REFERENCE]),
        tuple(found[SHADOW]),
        {name: tuple(found[name]) for name in doubles if found[name]},
        failures,
        time.monotonic() - since,
    )


def _roles(found: Mapping[str, Sequence[Process]]) -> list[Process]:
    return [process for processes in found.values() for process in processes]


def job(device: Device, spins: int = SPINS) -> Job:
    """Return the job of one double."""
    return _job("double", _shipped(device), {"spins": spins})


def _shipped(device: Device) -> str:
    backend: Backend = registry.create("backends", "null", {})
    with tempfile.TemporaryDirectory() as folder:
        entry = backend.compile_empty(device.target, Path(folder))
        return f"{device.ship(Path(folder), 'double')}/{entry}"


def _job(name: str, entry: str, options: Mapping[str, Any]) -> Job:
    return Job(name, module_of("backends", PluginSpec("null")), options, entry)
