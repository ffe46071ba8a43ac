"""What a study asks of a hand (a child process), and what a hand answers: JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressionSpec,
    Failure,
    OnnxModel,
    Sensitivity,
    Shifted,
    ShiftSpec,
    TargetProfile,
    WorkloadSpec,
)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Compress, export and compile candidates that share their weights."""

    candidates: tuple[Candidate, ...]
    target: TargetProfile
    cache: Path
    stamp: str


@dataclass(frozen=True, slots=True)
class WriteInputs:
    """Write a split's inputs as ``inputs.npy`` and its labels as ``labels.npy``."""

    workload: WorkloadSpec
    split: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Score:
    """Score the answers of a deployed artifact against the labels, and against the ONNX file."""

    workload: WorkloadSpec
    model: OnnxModel
    outputs: Path
    inputs: Path
    labels: Path


@dataclass(frozen=True, slots=True)
class Compile:
    """Compile one ONNX file, from wherever it comes, into `folder`."""

    candidate: Candidate
    model: OnnxModel
    target: TargetProfile
    folder: Path


@dataclass(frozen=True, slots=True)
class Shift:
    """Run an ONNX file and its dense model's on shifted data."""

    workload: WorkloadSpec
    model: OnnxModel
    dense: OnnxModel
    spec: ShiftSpec


@dataclass(frozen=True, slots=True)
class Widths:
    """Say which layers of a workload's model a pattern can prune."""

    spec: CompressionSpec


@dataclass(frozen=True, slots=True)
class Sense:
    """Try how much each layer can lose alone, by the spec's pattern and criterion."""

    spec: CompressionSpec
    cache: Path
    stamp: str


@dataclass(frozen=True, slots=True)
class Sensed:
    """What came of it, and each layer's share so that all together lose the spec's sparsity."""

    found: Sensitivity
    ratios: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Prunable:
    """The layers that can be pruned, with what shares of them count (channels, weights)."""

    units: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A candidate that is ready to be measured, or why it is not."""

    candidate: Candidate
    model: OnnxModel | None = None
    compiled: CompiledModel | None = None
    notes: tuple[str, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of a deployed artifact, and how far its answers are from the ONNX file's."""

    metric: str
    score: float
    samples: int
    disagreement: float


@dataclass(frozen=True, slots=True)
class Inputs:
    """A split on disk; ``unscored`` says why nothing can be said of accuracy, if so."""

    inputs: Path
    labels: Path
    samples: int
    metric: str
    unscored: str = ""


Job = Prepare | WriteInputs | Score | Compile | Shift | Widths | Sense
Answer = Prepared | Scored | Inputs | Shifted | Prunable | Sensed
JOBS: dict[str, type[Job]] = {
    kind.__name__: kind for kind in (Prepare, WriteInputs, Score, Compile, Shift, Widths, Sense)
}
ANSWERS: dict[str, type[Answer]] = {
    kind.__name__: kind for kind in (Prepared, Scored, Inputs, Shifted, Prunable, Sensed)
}
