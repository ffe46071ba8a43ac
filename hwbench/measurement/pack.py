"""Everything one sitting needs as a folder, for a device that no host can reach.

The folder holds the worker, the artifacts, the inputs and ``job.json``, the list of commands
that a host would have given. ``python3 worker.zip run`` does them there;
`hwbench.measurement.parcel` plays the answers back here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwbench import files
from hwbench.measurement.device import feeling, look
from hwbench.measurement.generation import REFERENCE, SHADOW
from hwbench.measurement.latency import Room, grouped
from hwbench.measurement.memory import named, variants_of, varied
from hwbench.measurement.package import worker_zip
from hwbench.measurement.shipment import (
    Artifact,
    empty_job,
    empty_of,
    kind_of,
    settings_of,
)
from hwbench.records import CompiledModel, EmptyModel, MeasureSpec, PluginSpec, TargetProfile
from hwbench.registry import BACKENDS, METERS
from hwbench.worker.messages import (
    Close,
    Command,
    Energy,
    Job,
    Memory,
    Open,
    Outputs,
    Rounds,
    Settings,
    encode,
)

_README = """\
hwbench packed this folder: one measuring session for the target {target}.

On the device, in this folder:

    python3 worker.zip run

It needs Python 3.11, numpy and the runtimes ({backends}); no other package, no network, no root.
It takes at most about {minutes} minutes of measuring, beside {artifacts} artifacts' outputs,
memory and energy. Interrupted, the same command goes on. Nothing else should run meanwhile.

Then copy the folder back whole (samples.jsonl and outputs/ are what is new), and where it was
packed:

    hwbench unpack {folder}
"""


def pack(
    batch: Sequence[CompiledModel],
    reference: CompiledModel,
    target: TargetProfile,
    spec: MeasureSpec,
    inputs: Path,
    folder: Path,
    empties: Sequence[EmptyModel] = (),
) -> int:
    """Write the folder (which exists and is empty) and return its size in bytes.

    Beside what `measure` does on a device that is there, nothing depends on what comes out: all
    rounds are taken, nobody is let off early, and there is one attempt.
    """
    models = {m.digest: m for m in [reference, *batch]}
    artifacts = {name: _laid(folder, model, name) for name, model in models.items()}
    shadow = _laid(folder, reference, SHADOW)
    shutil.copyfile(inputs, folder / "inputs.npy")
    worker_zip(folder / "worker.zip")
    empty = _laid_empty(folder, list(models.values()), empties)
    commands = _commands(artifacts, shadow, reference.digest, target, spec, empty)
    job = json.dumps([json.loads(encode(c)) for c in commands])
    files.write(folder / "job.json", job)
    words = _README.format(
        target=target.name,
        backends=", ".join(sorted({m.candidate.backend.kind for m in models.values()})),
        minutes=max(round(spec.max_time / 60), 1),
        artifacts=len(models),
        folder=folder.name,
    )
    files.write(folder / "README.txt", words)
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _commands(
    artifacts: Mapping[str, Artifact],
    shadow: Artifact,
    reference: str,
    target: TargetProfile,
    spec: MeasureSpec,
    empty: Mapping[str, Job],
) -> list[Command]:
    settings = settings_of(spec, target, "inputs.npy")
    bare = settings_of(spec, target, "")
    jobs = tuple(artifact.job() for artifact in artifacts.values())
    feel = feeling(target)
    found: list[Command] = [feel, look(target), Outputs(jobs, settings)]
    found.append(Memory(jobs, settings, spec.memory_runs))
    varied_jobs, bare_jobs = _memory_jobs(artifacts, empty)
    if varied_jobs:
        found.append(Memory(varied_jobs, settings, spec.memory_runs))
    if bare_jobs:
        found.append(Memory(bare_jobs, bare, spec.memory_runs))
    pair = (artifacts[reference].job(REFERENCE), shadow.job(SHADOW))
    rivals = [job for job in jobs if job.name != reference]
    found += _generations(pair, rivals, artifacts, target, spec, settings)
    if target.meters:
        meters = tuple(PluginSpec(METERS.plugin(m.kind).module, m.options) for m in target.meters)
        found.append(Energy(jobs, settings, meters, spec.energy_seconds, spec.roofline))
    return [*found, feel, look(target)]


def _generations(
    pair: tuple[Job, Job],
    rivals: Sequence[Job],
    artifacts: Mapping[str, Artifact],
    target: TargetProfile,
    spec: MeasureSpec,
    settings: Settings,
) -> list[Command]:
    """Return the latency pass: every group in every generation, in the order of a live sitting."""
    groups = grouped(rivals, pair, _rooms(pair, rivals, artifacts, target))
    planned = spec.generations * len(groups)
    seconds = spec.max_time / planned
    found: list[Command] = []
    for number in range(planned):
        jobs = (*pair, *groups[number % len(groups)])
        names = tuple(job.name for job in jobs)
        found.append(Open(jobs, settings, number))
        found.append(Rounds(0, spec.looks[-1], names, seconds))
        found += [Close(), feeling(target)]
    return found


def _rooms(
    pair: tuple[Job, Job],
    rivals: Sequence[Job],
    artifacts: Mapping[str, Artifact],
    target: TargetProfile,
) -> list[Room]:
    """Return the device's memories by its profile, with what artifacts are taken to need."""
    on_gpu = target.gpu.memory_bytes if target.gpu is not None else 0
    found = []
    for free, needs in ((target.ram_bytes, _need), (on_gpu, _gpu_need)):
        if not free:
            continue
        need = {job.name: needs(artifacts[job.name]) for job in rivals}
        most = max(need.values(), default=needs(next(iter(artifacts.values()))))
        found.append(Room(free, need | {job.name: most for job in pair}))
    return found


def _memory_jobs(
    artifacts: Mapping[str, Artifact], empties: Mapping[str, Job]
) -> tuple[tuple[Job, ...], tuple[Job, ...]]:
    """Return what the memory pass reads besides: models with other options, and empty ones."""
    bare: dict[str, Job] = {}
    others: list[Job] = []
    for artifact in artifacts.values():
        empty = empties.get(kind_of(artifact.model))
        if empty is None:
            continue
        for words, options in variants_of(artifact).items():
            others.append(varied(artifact.job(), words, options))
            bare[named(empty.name, words)] = varied(empty, words, options)
    return tuple(others), (*empties.values(), *bare.values())


def _laid_empty(
    folder: Path, models: Sequence[CompiledModel], empties: Sequence[EmptyModel]
) -> dict[str, Job]:
    """Return the job of the empty artifact by kind of runtime, copied into the folder."""
    found: dict[str, Job] = {}
    for model in models:
        kind, empty = kind_of(model), empty_of(model, empties)
        if kind in found or empty is None:
            continue
        place = f"empty/{kind}"
        with files.said(folder):
            ignored = shutil.ignore_patterns("record.json")
            shutil.copytree(empty.folder, folder / place, ignore=ignored)
        found[kind] = empty_job(model, f"{place}/{empty.entry}")
    return found


def _laid(folder: Path, model: CompiledModel, name: str) -> Artifact:
    place = f"artifacts/{name}"
    with files.said(folder):
        ignored = shutil.ignore_patterns("record.json")
        shutil.copytree(model.folder, folder / place, ignore=ignored)
    return Artifact(model, f"{place}/{model.entry}")


def _need(artifact: Artifact) -> int:
    """Return what its backend says that a process needs: nothing is measured yet."""
    return BACKENDS.traits(artifact.model.candidate.backend.kind).resident_bytes


def _gpu_need(artifact: Artifact) -> int:
    """Return a guess on the safe side: a context, workspaces, and the weights several times."""
    return (1 << 30) + 4 * artifact.model.artifact_bytes
