"""Doubles, and small real models, under the real protocol: the ground of doctor and self-tests.

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

from hwbench import stats
from hwbench.backends import DOUBLE
from hwbench.measurement import generation, precision
from hwbench.measurement.device import Device
from hwbench.measurement.generation import REFERENCE, SHADOW
from hwbench.measurement.shipment import settings_of
from hwbench.records import (
    CompiledModel,
    Failure,
    MeasureSpec,
    Process,
    TargetProfile,
)
from hwbench.registry import BACKENDS
from hwbench.worker.messages import Job, Settings

SPINS = 25_000
"""Turns of a double's loop: about a millisecond, as a small model takes."""

AGAIN = " again"
"""What the second of two identical models is called, after the name of the first."""

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
    jobs = [
        _job(name, entry, {"spins": spins, **options})
        for name, options in {REFERENCE: {}, SHADOW: {}, **doubles}.items()
    ]
    return _measured(device, jobs, spec, settings(spec, device.target, affinity), since)


def run_models(device: Device, models: Mapping[str, CompiledModel], spec: MeasureSpec) -> Trial:
    """Return what the protocol says about real models, every one measured under two names.

    They are artifacts of one backend, take the same input and are called ``NAME`` and ``NAME
    again``; R and S are the first of them. Raises `TargetError` as `run` does.
    """
    since = time.monotonic()
    places = {
        name: f"{device.ship(model.folder, f'trial/{number}')}/{model.entry}"
        for number, (name, model) in enumerate(models.items())
    }
    one = next(iter(models.values()))
    with tempfile.TemporaryDirectory() as folder:
        inputs = _inputs(device, one.input_shape, Path(folder) / "inputs.npy")
    first = next(iter(places.values()))
    named = {REFERENCE: first, SHADOW: first}
    named |= {n + again: place for n, place in places.items() for again in ("", AGAIN)}
    backend = one.candidate.backend
    module = BACKENDS.plugin(backend.kind).module
    jobs = [Job(name, module, backend.options, place) for name, place in named.items()]
    return _measured(device, jobs, spec, settings_of(spec, device.target, inputs), since)


def _inputs(device: Device, shape: Sequence[int], file: Path) -> str:
    import numpy as np

    np.save(file, np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32))
    return device.ship(file, "trial/inputs.npy")


def _measured(
    device: Device, jobs: Sequence[Job], spec: MeasureSpec, settings: Settings, since: float
) -> Trial:
    found: dict[str, list[Process]] = defaultdict(list)
    failures: dict[str, Failure] = {}
    deadline = since + spec.max_time
    for number in range(spec.generations):
        left = deadline - time.monotonic()
        if number and left <= 0:
            break
        alive = [job for job in jobs if job.name not in failures]
        names = {job.name: job.name for job in alive}
        made = generation.run(device, alive, names, number, spec, settings, max(left, 1.0))
        failures |= made.failures
        for process in made.processes:
            found[process.artifact].append(process)
        if precision.settled(_roles(found), set(failures), spec.half_width):
            break
    return Trial(
        tuple(found.pop(REFERENCE, ())),
        tuple(found.pop(SHADOW, ())),
        {job.name: tuple(found[job.name]) for job in jobs if found.get(job.name)},
        failures,
        time.monotonic() - since,
    )


def _roles(found: Mapping[str, Sequence[Process]]) -> list[Process]:
    return [process for processes in found.values() for process in processes]


def job(device: Device, spins: int = SPINS) -> Job:
    """Return the job of one double."""
    return _job("double", _shipped(device), {"spins": spins})


def _shipped(device: Device) -> str:
    backend = BACKENDS.create(DOUBLE.kind)
    with tempfile.TemporaryDirectory() as folder:
        entry = backend.compile_empty(device.target, Path(folder))
        return f"{device.ship(Path(folder), 'double')}/{entry}"


def _job(name: str, entry: str, options: Mapping[str, Any]) -> Job:
    return Job(name, BACKENDS.plugin(DOUBLE.kind).module, options, entry)
