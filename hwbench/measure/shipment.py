"""What goes to the device: artifacts, empty artifacts, and the settings of the children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from hwbench.measure.device import Device
from hwbench.records import CompiledModel, MeasureSpec, TargetProfile, digest
from hwbench.registry import BACKENDS
from hwbench.worker.messages import Job, Settings

_MOST_SIDE_BY_SIDE = 4


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact there: the host's record, and the path of its entry on the device."""

    model: CompiledModel
    entry: str
    code: str = ""

    def job(self, name: str = "") -> Job:
        """Return the job of running it, named by its digest unless it plays a role."""
        candidate = self.model.candidate
        return Job(
            name or self.model.digest,
            BACKENDS.plugin(candidate.backend.kind).module,
            candidate.backend.options,
            self.entry,
            candidate.threads,
            candidate.batch,
            self.code,
        )


def shipped(device: Device, model: CompiledModel, name: str) -> Artifact:
    """Copy an artifact to the device under a name of its own."""
    place = device.ship(model.folder, f"artifacts/{name}")
    return Artifact(model, f"{place}/{model.entry}", worker_of(device, model))


def worker_of(device: Device, model: CompiledModel) -> str:
    """Return where the worker is that runs an artifact, shipped if need be; empty: ours."""
    if model.worker is None:
        return ""
    return device.ship(model.worker, f"workers/{digest(str(model.worker))}")


def empty_jobs(
    device: Device, models: Sequence[CompiledModel], target: TargetProfile, folder: Path
) -> dict[str, Job]:
    """Return the job of the empty artifact by kind of runtime, compiled in `folder` and shipped."""
    found: dict[str, Job] = {}
    for model in models:
        kind = kind_of(model)
        if kind not in found:
            job = compiled_empty(model, target, folder, "")
            place = PurePosixPath(device.ship(folder / kind, f"empty/{kind}"))
            found[kind] = replace(
                job, artifact=str(place.parent / job.artifact), code=worker_of(device, model)
            )
    return found


def compiled_empty(model: CompiledModel, target: TargetProfile, folder: Path, place: str) -> Job:
    """Return the job of a runtime's empty artifact, compiled into a folder of its own.

    ``place`` is where `folder` will be on the device.
    """
    kind, spec = kind_of(model), model.candidate.backend
    home = folder / kind
    home.mkdir(parents=True, exist_ok=True)
    backend = BACKENDS.create(spec.kind, spec.options)
    entry = backend.compile_empty(target, home)
    path = str(PurePosixPath(place, kind, entry))
    module = BACKENDS.plugin(spec.kind).module
    return Job(f"empty-{kind}", module, spec.options, path, model.candidate.threads)


def kind_of(model: CompiledModel) -> str:
    """Name a backend with its options, threads and worker: each has an empty runtime of its own."""
    candidate = model.candidate
    decides: list[object] = [candidate.backend, candidate.threads]
    if model.worker is not None:
        decides.append(str(model.worker))
    return f"{candidate.backend.kind}-{digest(decides)}"


def settings_of(spec: MeasureSpec, target: TargetProfile, inputs: str) -> Settings:
    """Return how children are run; ``inputs`` is the file's path on the device, or empty."""
    return Settings(
        inputs=inputs,
        affinity=target.affinity,
        visit_seconds=spec.visit_seconds,
        min_calls=spec.min_calls,
        max_calls=spec.max_calls,
        warmup_calls=spec.warmup_calls,
        warmup_seconds=spec.warmup_seconds,
        timeout=spec.timeout,
        throttle_celsius=target.throttle_celsius,
        seed=spec.seed,
        gpu=target.gpu.which if target.gpu is not None else "",
        side_by_side=min(target.cores, _MOST_SIDE_BY_SIDE),
    )
