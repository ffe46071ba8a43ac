"""What decides every piece of cached work, in one place.

The software that does the work is in the cache's own stamp (`toolchain`). On top of it a `HostRoom`
is decided by what it is asked with; a `DeviceRoom` also by the device (its profile, and what it
said of itself), by how is measured and by the code that measures, which nobody can leave out.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import hwbench
from hwbench import conditions, registry
from hwbench.executor.jobs import Inputs, Prunable, Scored
from hwbench.records import (
    Answers,
    Candidate,
    CompiledModel,
    CompressedModel,
    CompressionSpec,
    EmptyModel,
    ExportSpec,
    LatencyTable,
    MeasureSpec,
    OnnxModel,
    PluginSpec,
    Sensitivity,
    Shifted,
    ShiftSpec,
    Sitting,
    TargetProfile,
    WorkloadSpec,
    digest,
    file_digest,
)
from hwbench.registry import BACKENDS, FAMILIES, PRUNERS, WORKLOADS, is_remote
from hwbench.store import Entry

R = TypeVar("R")

_DISTRIBUTIONS = ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "numpy")
"""What compressing and exporting stand on; what plug-ins do, their traits say."""
# The rooms whose code decides what is cached; a change of the report costs nobody a training.
_MAKERS = ("workloads", "pruners", "compress", "export", "compile", "backends", "kernels")
_MEASURERS = ("measurement", "worker", "conditions", "connections", "meters", "stats")


# --------------------------------------------------------------------------------------------
# the software


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the host's software that has a say in the results, by name."""
    found = {"hwbench": hwbench.__version__}
    for name in sorted({*_DISTRIBUTIONS, *_of_plugins()}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _of_plugins() -> Iterator[str]:
    """Yield the distributions that plug-ins name as deciding what is made here."""
    for backend in map(BACKENDS.traits, BACKENDS.kinds()):
        yield from backend.host_distributions
    for pruner in map(PRUNERS.traits, PRUNERS.kinds()):
        yield from pruner.host_distributions
    for workload in map(WORKLOADS.traits, WORKLOADS.kinds()):
        yield from workload.host_distributions


@functools.cache
def toolchain() -> str:
    """Return a hash of the software that makes what is cached, source and plug-ins included."""
    return digest({"versions": versions(), "source": _source(_MAKERS)})


@functools.cache
def measuring_code() -> str:
    """Return a hash of the source, that of plug-ins included, that decides what a sitting gives."""
    return _source(_MEASURERS)


def _source(places: Sequence[str]) -> str:
    source = hashlib.sha256()
    package = Path(hwbench.__file__).parent
    for name in places:
        place = package / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            source.update(path.read_bytes())
        if name in FAMILIES:
            for file in registry.sources(FAMILIES[name]).values():
                source.update(file.read_bytes())
    return source.hexdigest()


# --------------------------------------------------------------------------------------------
# the two kinds of rooms


@dataclass(frozen=True, slots=True)
class Device:
    """What is measured on: its profile, and a hash of what it said of itself."""

    target: TargetProfile
    fingerprint: str


@dataclass(frozen=True, slots=True)
class HostRoom(Generic[R]):
    """A room of work that the host does, decided by what it is asked with."""

    name: str
    kind: type[R]

    def entry(self, **deciding: object) -> Entry[R]:
        """Return the entry of a piece of work, by all that decides it."""
        return Entry(self.name, digest(deciding), self.kind)

    def keyed(self, key: str) -> Entry[R]:
        """Return the entry of a record that has a content key of its own."""
        return Entry(self.name, key, self.kind)


@dataclass(frozen=True, slots=True)
class DeviceRoom(Generic[R]):
    """A room of work that a device does."""

    name: str
    kind: type[R]

    def entry(self, on: Device, spec: MeasureSpec, **deciding: object) -> Entry[R]:
        """Return the entry of what a device did, by all that decides it."""
        there = {"target": on.target, "fingerprint": on.fingerprint, "spec": spec}
        whole = {**deciding, **there, "code": measuring_code()}
        return Entry(self.name, digest(whole), self.kind)


_WEIGHTS = HostRoom("compress", CompressedModel)
_SENSITIVITY = HostRoom("sensitivity", Sensitivity)
_WIDTHS = HostRoom("widths", Prunable)
_ONNX = HostRoom("export", OnnxModel)
_ARTIFACT = HostRoom("compile", CompiledModel)
_AGAIN = HostRoom("compile-again", CompiledModel)
_EMPTY = HostRoom("compile-empty", EmptyModel)
_INPUTS = HostRoom("inputs", Inputs)
_SCORE = HostRoom("score", Scored)
_SHIFT = HostRoom("shift", Shifted)
_SESSION = DeviceRoom("measure", Sitting)
_DUEL = DeviceRoom("duel", Sitting)
_OUTPUTS = DeviceRoom("outputs", Answers)
_TABLE = DeviceRoom("latency-table", LatencyTable)


# --------------------------------------------------------------------------------------------
# what the host makes


def weights(spec: CompressionSpec) -> Entry[CompressedModel]:
    """Return where a set of weights is kept."""
    return _WEIGHTS.keyed(spec.key)


def sensitivity(spec: CompressionSpec) -> Entry[Sensitivity]:
    """Return where the curves of a spec's pattern and criterion are kept."""
    return _SENSITIVITY.keyed(spec.alone.key)


def widths(spec: CompressionSpec) -> Entry[Prunable]:
    """Return where the layers that a spec can prune are kept."""
    return _WIDTHS.keyed(spec.alone.key)


def onnx(spec: ExportSpec) -> Entry[OnnxModel]:
    """Return where an ONNX file is kept."""
    return _ONNX.keyed(spec.key)


def artifact(candidate: Candidate, target: TargetProfile, model: OnnxModel) -> Entry[CompiledModel]:
    """Return where an artifact is kept: by the candidate, and what it is made from and for."""
    # The candidate names the target; of what its file says, these decide as well.
    there = _made_for(candidate.backend, target)
    return _ARTIFACT.entry(candidate=candidate.key, model=model.digest, **there)


def again(candidate: Candidate, target: TargetProfile, model: OnnxModel) -> Entry[CompiledModel]:
    """Return where the same artifact is kept that was compiled again, to time the compiler."""
    return _AGAIN.keyed(artifact(candidate, target, model).key)


def empty(backend: PluginSpec, target: TargetProfile) -> Entry[EmptyModel]:
    """Return where a backend's empty artifact is kept."""
    return _EMPTY.entry(backend=backend, target=target.name, **_made_for(backend, target))


def _made_for(backend: PluginSpec, target: TargetProfile) -> dict[str, object]:
    """Return what a compiler makes code for, beside the options that the backend is given."""
    found: dict[str, object] = {"isa": target.isa}
    if target.gpu is not None:
        found["gpu"] = target.gpu.capability
    # Code for the processor that compiles, kernels chosen by timing them there; what is made for
    # another kind of machine can do neither.
    on_target = BACKENDS.traits(backend.kind).compiles == "on_target"
    if on_target and target.isa == platform.machine():
        found["compiled on"] = _own_cpu()
        found["runs elsewhere"] = is_remote(target.connection)
    return found


@functools.cache
def _own_cpu() -> object:
    return conditions.identity()["cpu"]


def inputs(workload: WorkloadSpec, split: str) -> Entry[Inputs]:
    """Return where a split of a workload's data is kept."""
    return _INPUTS.entry(of=workload, split=split)


def score(workload: WorkloadSpec, model: OnnxModel, outputs: Path, data: Inputs) -> Entry[Scored]:
    """Return where the score of outputs is kept: by the outputs themselves."""
    answers = file_digest(outputs, data.labels)
    return _SCORE.entry(answers=answers, model=model.digest, of=workload)


def shift(
    workload: WorkloadSpec, model: OnnxModel, dense: OnnxModel, spec: ShiftSpec
) -> Entry[Shifted]:
    """Return where the accuracies of a file on shifted data are kept."""
    return _SHIFT.entry(of=model.digest, dense=dense.digest, data=workload, spec=spec)


# --------------------------------------------------------------------------------------------
# what a device does


def session(
    on: Device,
    spec: MeasureSpec,
    batch: Sequence[CompiledModel],
    reference: CompiledModel,
    workload: WorkloadSpec,
) -> Entry[Sitting]:
    """Return where a measuring session is kept."""
    names = sorted({model.digest for model in batch})
    return _SESSION.entry(on, spec, artifacts=names, reference=reference.digest, inputs=workload)


def duel(
    on: Device, spec: MeasureSpec, batch: Sequence[CompiledModel], workload: WorkloadSpec
) -> Entry[Sitting]:
    """Return where a session of the latency alone is kept; the first of `batch` is beside all."""
    return _DUEL.entry(on, spec, duel=[model.digest for model in batch], inputs=workload)


def outputs(
    on: Device,
    spec: MeasureSpec,
    batch: Sequence[CompiledModel],
    data: Entry[Inputs],
    samples: int | None = None,
) -> Entry[Answers]:
    """Return where a batch's outputs to a split (its first `samples`) are kept."""
    names = sorted({model.digest for model in batch})
    return _OUTPUTS.entry(on, spec, artifacts=names, inputs=data.key, samples=samples)


def latency_table(
    on: Device,
    spec: MeasureSpec,
    dense: CompressionSpec,
    backend: PluginSpec,
    shares: Sequence[float],
) -> Entry[LatencyTable]:
    """Return where the latencies of a model with one layer pruned at a time are kept."""
    return _TABLE.entry(on, spec, of=dense, backend=backend, shares=list(shares))
