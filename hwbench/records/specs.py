"""What to make: the nesting ``Candidate ⊃ ExportSpec ⊃ CompressionSpec`` is the cache key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hwbench.records.plain import digest


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """A plug-in by name with its options, as a recipe or a target names it."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """Which model and data: a workload plug-in, its options, and a hash of the user's files."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """How a model is trained or fine-tuned: SGD with Nesterov momentum, one-cycle rate.

    ``epochs == 0`` means no training (the workload's model comes trained, or no recovery).
    """

    epochs: int = 10
    lr: float = 0.05
    batch: int = 64
    weight_decay: float = 5e-4
    warmup: float = 0.15


Schedule = Literal["oneshot", "linear", "cubic"]


@dataclass(frozen=True, slots=True)
class CompressionSpec:
    """Everything that decides a set of weights.

    ``pattern`` is ``dense``, ``channel``, ``unstructured``, ``N:M`` (N kept of M) or ``NxM``
    (blocks of N output by M input channels). ``sparsity`` is the share of *channels* removed
    for ``channel`` and the share of *weights* that are zero for every other pattern.
    ``options`` are those of the pruner that makes the pattern.
    """

    workload: WorkloadSpec
    train: TrainSpec
    pattern: str = "dense"
    criterion: str = "magnitude"
    scope: str = "global"
    sparsity: float = 0.0
    schedule: Schedule = "oneshot"
    steps: int = 1
    channel_multiple: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    recovery: TrainSpec | None = None
    seed: int = 0

    @property
    def key(self) -> str:
        """Content hash of everything that decides the weights."""
        return digest(self)

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned."""
        return self.pattern == "dense"

    @property
    def dense(self) -> CompressionSpec:
        """The spec of the dense model that this one is pruned from."""
        return CompressionSpec(workload=self.workload, train=self.train, seed=self.seed)

    @property
    def method(self) -> str:
        """The method without its sparsity, for grouping: ``unstructured magnitude global``."""
        if self.is_dense:
            return "dense"
        parts = [self.pattern, self.criterion, self.scope]
        if self.schedule != "oneshot":
            parts.append(self.schedule)
        return " ".join(parts)

    @property
    def label(self) -> str:
        """A short name for people: ``unstructured 90 % magnitude global``."""
        if self.is_dense:
            return "dense"
        head, *rest = self.method.split(" ")
        tail = f" seed {self.seed}" if self.seed else ""
        share = f" {self.sparsity * 100:g} %" if ":" not in self.pattern else ""
        return f"{head}{share} {' '.join(rest)}{tail}"


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """Everything that decides an ONNX file."""

    compression: CompressionSpec
    precision: str = "fp32"
    opset: int = 20

    @property
    def key(self) -> str:
        """Content hash of everything that decides the ONNX file."""
        return digest(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing that could be shipped: an ONNX file through one backend for one target."""

    export: ExportSpec
    backend: PluginSpec
    target: str
    batch: int = 1
    threads: int = 1

    @property
    def key(self) -> str:
        """Content hash of everything that decides the artifact."""
        return digest(self)

    @property
    def compression(self) -> CompressionSpec:
        """The spec of the weights inside."""
        return self.export.compression

    @property
    def label(self) -> str:
        """A short name for people: ``channel 50 % l2 local · onnxruntime``."""
        precision = "" if self.export.precision == "fp32" else f" {self.export.precision}"
        return f"{self.compression.label}{precision} · {self.backend.kind}"
