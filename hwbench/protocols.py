"""The seams: what a plug-in does; what it is, its `hwbench.traits` say.

Contract tests (`hwbench.testing`) hold every registered plug-in to both.

Host plug-ins may use torch and onnx; what runs on the device (`Session`, a backend's `load`, an
`EnergyMeter`) only numpy and its own runtime. Heavy imports happen inside the functions, so that
every plug-in file can be imported anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol, runtime_checkable

from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressionSpec,
    EnergyReading,
    LayerNote,
    OnnxModel,
    Point,
    Roofline,
    TargetProfile,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Split = Literal["train", "validation", "test"]


class ModelSource(Protocol):
    """Where a model comes from."""

    def model(self) -> nn.Module:
        """Return a fresh model; trained already if the recipe says ``train: {epochs: 0}``."""


class Data(Protocol):
    """What a model is run on."""

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return inputs (samples first) and labels of a split, as tensors on the CPU."""


class Scoring(Protocol):
    """How right outputs are.

    ``metric`` names what `score` returns: ``top1`` (a fraction) or ``score`` (any number);
    higher is better for both.
    """

    metric: str

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the metric of the model's outputs (one row a sample) against the labels."""


@runtime_checkable
class Trainable(Protocol):
    """How a model is taught."""

    def train_step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of one batch, augmentation included; hwbench does the rest."""


class Modelled(ModelSource, Data, Protocol):
    """A model and what it is run on: enough to export, prune and measure it."""


class Workload(ModelSource, Data, Scoring, Protocol):
    """The user's model, its data and its score.

    One that is `Trainable` too can be trained and fine-tuned; what it is asked for otherwise needs
    no training: a model that comes trained, pruned with norms estimated again.
    """


@runtime_checkable
class Checked(Protocol):
    """A workload that can try itself out before anything long begins."""

    def check(self) -> None:
        """Try everything but the test split once; raises `UserError` for a mistake."""


@runtime_checkable
class Pictured(Protocol):
    """A workload of pictures that can be shifted: it says how its inputs are made of pixels."""

    metric: str
    pixels: tuple[float, float]
    """The mean and the scale: inputs * scale + mean are pixels in 0..1."""

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return pictures (n, channels, height, width) and labels."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruner made: a pruned copy and how to make it again.

    ``masks`` maps parameter names to 0/1 tensors that training must keep (empty for structural
    pruning); ``structure`` is plain JSON data from which `Pruner.restore` rebuilds the shape;
    ``notes`` says what was left alone and why.
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    structure: Mapping[str, object]
    notes: tuple[str, ...] = ()


class Pruner(Protocol):
    """Removes weights. Deterministic for a seed; never touches the model it is given."""

    def layers(self, model: nn.Module, example: Tensor, spec: CompressionSpec) -> Mapping[str, int]:
        """Return what can be pruned: by layer, in the model's order, how many units there are.

        Units are weights, channels, heads or blocks: what the pattern's shares count. Empty when
        the pattern has no per-layer shares.
        """

    def prune(
        self,
        model: nn.Module,
        example: Tensor,
        spec: CompressionSpec,
        sparsity: float,
        evidence: Mapping[str, Tensor] = {},
    ) -> Pruned:
        """Return a copy pruned to `sparsity` (a schedule asks for less than the spec at first).

        `evidence` is what a criterion learnt from data, by parameter name, for those that need
        it; with the scope ``vector`` the spec's ratios say it all.

        Raises `StageError` when there is nothing to prune or the pattern cannot apply.
        """

    def restore(
        self, model: nn.Module, example: Tensor, structure: Mapping[str, object]
    ) -> nn.Module:
        """Return `model` (fresh, dense) cut to the recorded structure; weights come after."""


class Sampler(Protocol):
    """Says which candidate of a space to try next. The same seed and answers, the same walk."""

    def begin(self, space: Sequence[Point], objectives: int) -> None:
        """Take the space to walk on; every point has the same axes."""

    def ask(self) -> int | None:
        """Return a point that was not asked for before, by its place; None when all were.

        Several may be asked for before the first is told of.
        """

    def tell(self, index: int, costs: Sequence[float] | None) -> None:
        """Learn the costs of a point (less is better, one an objective); None: it failed."""


class Session(Protocol):
    """A loaded artifact on the device. Only `invoke` is inside the stopwatch."""

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Hand over the inputs once; `invoke` then runs on them as often as it is called."""

    def invoke(self) -> None:
        """Run one inference, to its end."""

    def outputs(self) -> list[np.ndarray]:
        """Return copies of the outputs of the last `invoke`."""


@runtime_checkable
class Accelerated(Protocol):
    """A session whose work runs on a device with a clock and a memory of its own."""

    layers: tuple[str, ...]
    """What was made of each layer that could be run in several ways."""

    @property
    def clock(self) -> str:
        """What `time_call` reads; empty: it runs on the CPU, by the worker's stopwatch."""

    def time_call(self) -> int:
        """Run one inference to its end; return its nanoseconds by the device's own clock."""

    def device_memory(self) -> dict[str, int]:
        """Return the peaks of the device's memory in bytes (empty: nobody but its driver knows)."""


@runtime_checkable
class Layered(Protocol):
    """A session that can tell its layers apart."""

    def roofline(self) -> Roofline:
        """Return each layer's seconds, and the device's ceilings; raises `StageError`."""


class Backend(Protocol):
    """A runtime: compiles on the host, loads and runs on the device."""

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return, per layer, whether zeros can pay in this backend, and why (not)."""

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Write the artifact into `folder` and return the name of the file to load.

        Raises `StageError` when the model or the target is beyond this backend.
        """

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        """Write the smallest artifact there is and return the name of the file to load.

        It copies its input ``x``, float32 of shape (1, 1); the runtime's own memory is measured
        with it.
        """

    def load(self, artifact: Path, threads: int) -> Session:
        """Return a ready session on the device. Raises `StageError` if it does not load."""

    def versions(self) -> Mapping[str, str]:
        """Return the versions of what runs here: ``{"onnxruntime": "1.31.1"}``."""

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a Python script of about ten lines that runs the artifact without hwbench.

        It stands beside `entry`'s folder, takes an optional ``.npy`` file of one batch of inputs
        as its argument (zeros otherwise) and prints the outputs.
        """


@runtime_checkable
class Planning(Protocol):
    """A backend whose compiler plans the memory of activations."""

    def planned_memory(self, model: OnnxModel) -> int | None:
        """Return the bytes that it planned when it compiled `model`; None if it did not."""


@runtime_checkable
class Telling(Protocol):
    """A backend that may compile for minutes, and says meanwhile how far it is."""

    def listen(self, heard: Callable[[float], None]) -> None:
        """Call `heard` with the share of the time that is over, now and then."""


class EnergyMeter(Protocol):
    """Joules between `start` and `stop`. Cannot read: raises `StageError`, never 0."""

    def start(self) -> None:
        """Begin to count."""

    def stop(self, inferences: int) -> EnergyReading:
        """Return the gross joules since `start`, over that many inferences."""


@runtime_checkable
class Settling(Protocol):
    """A meter that can read what the device draws before anything of ours is on it."""

    def settle(self) -> None:
        """Read it; `EnergyReading.idle_watts` will say it. Raises `StageError`."""


class Channel(Protocol):
    """A running worker: lines in, lines out, nothing else."""

    def send(self, line: str) -> None:
        """Send one line (without its newline). Raises `TargetError` when the worker is gone."""

    def receive(self, timeout: float) -> str:
        """Return the next line; raises `TargetError` after `timeout` seconds, or at its end."""

    def close(self) -> None:
        """End the worker and everything it started."""


class Connection(Protocol):
    """A way to a device: files there, files back, a worker started. Cleans up after itself."""

    def put(self, source: Path, name: str) -> str:
        """Copy a file (or folder) to the session's folder there; returns its path there."""

    def get(self, name: str, destination: Path) -> None:
        """Copy a file back."""

    def start(self, arguments: Sequence[str], log: IO[bytes]) -> Channel:
        """Start the device's Python with these arguments; its standard error goes to `log`."""

    def close(self) -> None:
        """Remove the session's folder there and end what is still running."""
