"""What the host makes: weights, ONNX files, artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hwbench.records.specs import (
    Candidate,
    CompressionSpec,
    ExportSpec,
    PluginSpec,
    TrainSpec,
    WorkloadSpec,
)


@dataclass(frozen=True, slots=True)
class CompressedModel:
    """A trained set of weights on disk: ``weights.safetensors`` and ``structure.json``.

    ``scores`` holds validation scores by the moment they were taken (``trained`` for the dense
    model; else ``pruned``, ``bn_reestimated``, ``finetuned``); ``notes`` what was left alone and
    why.
    """

    spec: CompressionSpec
    folder: Path
    scores: Mapping[str, float]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerCurve:
    """What pruning one layer alone does: validation scores by the layer's share removed.

    ``units`` are what the shares count (weights, channels, heads). ``score`` is the dense model's;
    ``scores`` are taken after batch-norm statistics were
    estimated again, without training.
    """

    layer: str
    units: int
    score: float
    sparsities: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The curves of every layer that one pattern and criterion can prune, in the model's order."""

    spec: CompressionSpec
    curves: tuple[LayerCurve, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One weighted operator of an ONNX file, as counted on the file."""

    name: str
    op: str
    shape: tuple[int, ...]
    groups: int
    parameters: int
    nonzero: int
    macs: int

    @property
    def sparsity(self) -> float:
        """Share of zero weights, 0..1."""
        return 1.0 - self.nonzero / self.parameters if self.parameters else 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted on an ONNX file: totals over the weights of ``layers``, a shared one once.

    ``macs`` are those of one inference at batch 1, products without a weight (attention)
    included; ``denormals`` are counted in every float initializer, biases included.
    """

    layers: tuple[Layer, ...]
    parameters: int
    nonzero: int
    macs: int
    denormals: int


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An ONNX file with one input, and what has to be known to run it.

    ``input_shape`` is without the batch; ``opset`` 0: none of ONNX's own operators.
    """

    path: Path
    digest: str
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_names: tuple[str, ...]
    opset: int


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """An ONNX file, where it comes from, and what is known of it besides.

    ``counts``: None where the file cannot be counted. ``parity`` is the largest error relative to
    PyTorch; None for a file that PyTorch did not write.
    """

    spec: ExportSpec
    file: OnnxFile
    counts: Counts | None = None
    parity: float | None = None

    @classmethod
    def of_file(cls, file: OnnxFile, counts: Counts | None = None) -> OnnxModel:
        """Return the model of a file from elsewhere: it is its own source, untrained."""
        source = WorkloadSpec("onnx", {"file": file.path.name}, file.digest)
        return cls(ExportSpec(CompressionSpec(source, TrainSpec(epochs=0))), file, counts)

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    @property
    def digest(self) -> str:
        """Content hash of the file."""
        return self.file.digest

    @property
    def input_name(self) -> str:
        """The name of the file's input."""
        return self.file.input_name

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""
        return self.file.input_shape

    @property
    def input_dtype(self) -> str:
        """The input's type, as numpy names it."""
        return self.file.input_dtype

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The weighted operators; none where nothing was counted."""
        return () if self.counts is None else self.counts.layers


@dataclass(frozen=True, slots=True)
class EmptyModel:
    """The smallest artifact of a backend: with it a runtime's own memory is read."""

    backend: PluginSpec
    folder: Path
    entry: str


@dataclass(frozen=True, slots=True)
class LayerNote:
    """What a backend can make of one layer: eligible for a sparse kernel or not, and why."""

    layer: str
    eligible: bool
    why: str


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """An artifact: a folder of files that one backend loads on one kind of device.

    ``entry`` names the file to load, relative to ``folder``; ``digest`` covers every file;
    ``versions`` says what compiled it. ``worker`` is a folder with the worker of another hwbench
    that is to run it (a pinned baseline brings its own); None: today's. ``planned_memory`` is the
    arena of activations in bytes where the compiler plans one.
    """

    candidate: Candidate
    folder: Path
    entry: str
    digest: str
    artifact_bytes: int
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    layers: tuple[LayerNote, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    worker: Path | None = None
    planned_memory: int | None = None
