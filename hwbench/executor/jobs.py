"""The host's jobs, one class each: what it needs, and how it is done.

Rooms that import torch are imported where they are used: the process that only asks stays light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hwbench.errors import StageError
from hwbench.executor.base import Heard, Job
from hwbench.protocols import Checked, Split, Workload
from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressedModel,
    CompressionSpec,
    EmptyModel,
    ExportSpec,
    OnnxModel,
    PluginSpec,
    Sensitivity,
    Shifted,
    ShiftSpec,
    TargetProfile,
    WorkloadSpec,
)
from hwbench.registry import BACKENDS, WORKLOADS


@dataclass(frozen=True, slots=True)
class Compress(Job[CompressedModel]):
    """Prune and train a set of weights; `dense` is what it is pruned from (None: it is dense).

    `tried` are the curves that the scope ``sensitivity`` reads its shares off.
    """

    stage: ClassVar[str] = "compress"
    spec: CompressionSpec
    dense: CompressedModel | None = None
    tried: Sensitivity | None = None

    @property
    def alone(self) -> str:
        """The GPU, where it trains on one."""
        return _gpu(self.spec)

    def do(self, folder: Path, heard: Heard) -> CompressedModel:
        """Return the weights."""
        from hwbench.compress import compress

        workload = _workload(self.spec.workload)
        return compress(self.spec, workload, self.dense, folder, heard, self.tried)


@dataclass(frozen=True, slots=True)
class Sense(Job[Sensitivity]):
    """Try how much each layer can lose alone, by the spec's pattern and criterion."""

    stage: ClassVar[str] = "compress"
    spec: CompressionSpec
    dense: CompressedModel

    @property
    def alone(self) -> str:
        """The GPU, where it computes on one."""
        return _gpu(self.spec)

    def do(self, folder: Path, heard: Heard) -> Sensitivity:
        """Return a curve for each layer."""
        from hwbench.compress import sensitivity

        return sensitivity(self.spec, _workload(self.spec.workload), self.dense, heard)


@dataclass(frozen=True, slots=True)
class Prunable:
    """The layers that can be pruned, with what shares of them count (channels, weights)."""

    units: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Widths(Job[Prunable]):
    """Say which layers of a workload's model a pattern can prune."""

    stage: ClassVar[str] = "compress"
    spec: CompressionSpec

    def do(self, folder: Path, heard: Heard) -> Prunable:
        """Return the layers."""
        from hwbench.compress import prunable

        return Prunable(prunable(self.spec, _workload(self.spec.workload)))


@dataclass(frozen=True, slots=True)
class Export(Job[OnnxModel]):
    """Write weights as an ONNX file."""

    stage: ClassVar[str] = "export"
    spec: ExportSpec
    weights: CompressedModel

    def do(self, folder: Path, heard: Heard) -> OnnxModel:
        """Return the file, and what was counted on it."""
        from hwbench.export import export

        return export(self.spec, self.weights, _workload(self.spec.compression.workload), folder)


@dataclass(frozen=True, slots=True)
class Compile(Job[CompiledModel]):
    """Compile one ONNX file, from wherever it comes."""

    stage: ClassVar[str] = "compile"
    candidate: Candidate
    model: OnnxModel
    target: TargetProfile

    def do(self, folder: Path, heard: Heard) -> CompiledModel:
        """Return the artifact."""
        from hwbench.compile import compile_model

        return compile_model(self.candidate, self.model, self.target, folder, heard)


@dataclass(frozen=True, slots=True)
class CompileEmpty(Job[EmptyModel]):
    """Compile the smallest artifact there is for a backend."""

    stage: ClassVar[str] = "compile"
    backend: PluginSpec
    target: TargetProfile

    def do(self, folder: Path, heard: Heard) -> EmptyModel:
        """Return the artifact."""
        own = BACKENDS.create(self.backend.kind, self.backend.options)
        return EmptyModel(self.backend, folder, own.compile_empty(self.target, folder))


@dataclass(frozen=True, slots=True)
class Inputs:
    """A split on disk; ``unscored`` says why nothing can be said of accuracy, if so."""

    inputs: Path
    labels: Path
    samples: int
    metric: str
    unscored: str = ""


@dataclass(frozen=True, slots=True)
class WriteInputs(Job[Inputs]):
    """Write a split's inputs as ``inputs.npy`` and its labels as ``labels.npy``."""

    workload: WorkloadSpec
    split: str

    def do(self, folder: Path, heard: Heard) -> Inputs:
        """Return the files; the first that is asked of a workload, so it checks itself."""
        import numpy as np

        workload = _workload(self.workload)
        split: Split = "test" if self.split == "test" else "validation"
        if split == "validation" and isinstance(workload, Checked):
            workload.check()
        inputs, labels = workload.data(split)
        paths = (folder / "inputs.npy", folder / "labels.npy")
        for path, tensor in zip(paths, (inputs, labels), strict=True):
            np.save(path, tensor.numpy(), allow_pickle=False)
        return Inputs(
            *paths,
            samples=len(inputs),
            metric=workload.metric,
            unscored=WORKLOADS.traits(self.workload.kind).unscored,
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of a deployed artifact, and how far its answers are from the ONNX file's."""

    metric: str
    score: float
    samples: int
    disagreement: float


@dataclass(frozen=True, slots=True)
class Score(Job[Scored]):
    """Score the answers of a deployed artifact against the labels, and against the ONNX file."""

    stage: ClassVar[str] = "measure"
    workload: WorkloadSpec
    model: OnnxModel
    outputs: Path
    inputs: Path
    labels: Path

    def do(self, folder: Path, heard: Heard) -> Scored:
        """Return the score."""
        import numpy as np

        from hwbench.export import disagreement

        workload = _workload(self.workload)
        outputs, labels = np.load(self.outputs), np.load(self.labels)
        error = disagreement(self.model, np.load(self.inputs, mmap_mode="r"), outputs)
        score = float(workload.score(outputs, labels))
        if not np.isfinite(score):
            raise StageError("measure", f"the score is {score}", expected="a finite number")
        return Scored(workload.metric, score, len(labels), error)


@dataclass(frozen=True, slots=True)
class Shift(Job[Shifted]):
    """Run an ONNX file and its dense model's on shifted data."""

    stage: ClassVar[str] = "measure"
    workload: WorkloadSpec
    model: OnnxModel
    dense: OnnxModel
    spec: ShiftSpec

    def do(self, folder: Path, heard: Heard) -> Shifted:
        """Return the accuracies."""
        from hwbench.export import shifted

        own = self.spec
        return shifted(self.model, self.dense, self.workload, own.severities, own.images)


def _gpu(spec: CompressionSpec) -> str:
    return "" if spec.training.device == "cpu" else "gpu"


def _workload(spec: WorkloadSpec) -> Workload:
    return WORKLOADS.create(spec.kind, spec.options)
