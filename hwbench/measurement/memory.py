"""The memory pass: peaks of fresh processes, the empty runtime's, and those of other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwbench.measurement import passes
from hwbench.measurement.device import Device
from hwbench.measurement.shipment import Artifact, empty_jobs, kind_of, settings_of
from hwbench.records import EmptyModel, MeasureSpec, MemoryReading, TargetProfile
from hwbench.registry import BACKENDS
from hwbench.worker.messages import Job, Memory, Settings


def readings(
    device: Device,
    live: Mapping[str, Artifact],
    done: passes.Done,
    target: TargetProfile,
    spec: MeasureSpec,
    settings: Settings,
    folder: Path,
    empty_models: Sequence[EmptyModel],
) -> Mapping[str, MemoryReading]:
    """Return the reading of each artifact in `done`, with what else is needed to judge it.

    That is the peak of its runtime with an empty model, and the same of both with the other
    options that a backend's traits name: ONNX Runtime without its arena.
    """
    models = [artifact.model for artifact in live.values()]
    empties = empty_jobs(device, models, empty_models)
    kept = _peaks(device, list(empties.values()), spec, settings_of(spec, target, ""), folder)
    kept = {**kept, **_variant_peaks(device, live, empties, spec, settings, target, folder)}
    found = {}
    for name, message in done.items():
        if "memory" not in message:
            continue
        artifact = live[name]
        empty = empties.get(kind_of(artifact.model))
        base = kept.get(empty.name) if empty is not None else None
        variants = {}
        for words in variants_of(artifact):
            gross = kept.get(named(name, words))
            bare = kept.get(named(empty.name, words)) if empty is not None else None
            if gross is not None and bare is not None and gross.after_runs > bare.after_runs:
                variants[words] = gross.after_runs - bare.after_runs
        found[name] = replace(
            MemoryReading(**message["memory"]),
            empty_runtime=None if base is None else base.after_runs,
            context=None if base is None else (base.device or {}).get("process"),
            variants=variants,
        )
    return found


def variants_of(artifact: Artifact) -> Mapping[str, Mapping[str, Any]]:
    """Return the options, by what is different, with which memory is read as well."""
    return BACKENDS.traits(artifact.model.candidate.backend.kind).memory_variants


def _variant_peaks(
    device: Device,
    live: Mapping[str, Artifact],
    empties: Mapping[str, Job],
    spec: MeasureSpec,
    settings: Settings,
    target: TargetProfile,
    folder: Path,
) -> dict[str, MemoryReading]:
    jobs: list[Job] = []
    bare: dict[str, Job] = {}
    for artifact in live.values():
        empty = empties.get(kind_of(artifact.model))
        if empty is None:
            continue
        for words, options in variants_of(artifact).items():
            jobs.append(varied(artifact.job(), words, options))
            bare[named(empty.name, words)] = varied(empty, words, options)
    found = _peaks(device, jobs, spec, settings, folder)
    return found | _peaks(device, list(bare.values()), spec, settings_of(spec, target, ""), folder)


def varied(job: Job, words: str, options: Mapping[str, Any]) -> Job:
    """Return the same job with other options, and a name that says so."""
    return replace(job, name=named(job.name, words), options={**job.options, **options})


def named(name: str, words: str) -> str:
    """Return the name of a job with other options."""
    return f"{name} {words}"


def _peaks(
    device: Device, jobs: list[Job], spec: MeasureSpec, settings: Settings, folder: Path
) -> dict[str, MemoryReading]:
    """Return the peaks of each job that has any."""
    done = passes.run(
        device,
        folder / "memory.jsonl",
        jobs,
        lambda left: Memory(left, settings, spec.memory_runs),
        lambda _: None,
    )
    return {n: MemoryReading(**m["memory"]) for n, m in done.items() if "memory" in m}
