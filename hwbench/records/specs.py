"""What to make: the nesting ``Candidate ⊃ ExportSpec ⊃ CompressionSpec`` is the cache key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hwbench.records.methods import SCHEDULES, Schedule, criterion, usual_steps
from hwbench.records.plain import UNSAID, digest


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """A plug-in by name with its options, as a recipe or a target names it.

    ``naming`` are the words for options by which one plug-in is several candidates; None: nobody
    has asked the plug-in for them. A name decides nothing: it is in no key.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    naming: tuple[str, ...] | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """A short name for people: ``torch bf16 graph``."""
        return " ".join((self.kind, *(self.naming or ())))


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """Which model and data: a workload plug-in, its options, and a hash of the user's files."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


TrainDevice = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """How a model is trained or fine-tuned: SGD with Nesterov momentum, one-cycle rate.

    ``epochs == 0`` means no training (the workload's model comes trained, or no recovery).
    ``device`` is where: ``cpu`` or ``cuda``; for the latter ``gpu`` names the GPU and the
    libraries that decide the bits of the weights (`hwbench.cuda`), filled in when a run begins.
    """

    epochs: int = 10
    lr: float = 0.05
    batch: int = 64
    weight_decay: float = 5e-4
    warmup: float = 0.15
    device: TrainDevice = field(default="cpu", metadata={UNSAID: True})
    gpu: str = field(default="", metadata={UNSAID: True})


Healing = Literal["finetune", "bn", "distill"]
Ticket = Literal["winning", "random"]
Precision = Literal["fp32", "int8"]

CHANNELS = ("channel", "filter", "neuron", "mlp")
"""Patterns that remove channels: any, those of convolutions, of linear layers, of MLPs alone."""

LAST = 2 / 3
"""Share of the recovery after which, unless told otherwise, nothing more is pruned."""

TEACHER, TEMPERATURE = 0.5, 4.0
"""Distillation unless told otherwise: the dense model's share of the loss, and how soft it is."""


@dataclass(frozen=True, slots=True)
class CompressionSpec:
    """Everything that decides a set of weights.

    ``pattern`` is ``dense``, one of `CHANNELS`, ``head`` (of attention), ``depth`` (whole
    residual blocks), ``unstructured``, ``N:M`` (N kept of M) or ``NxM`` (blocks of N output by M
    input channels). ``sparsity`` is the share of *channels* (heads, blocks) removed for those and
    the share of *weights* that are zero for the others.
    ``options`` are those of the pruner that makes the pattern, where they are not its defaults.

    With the scope ``vector``, ``ratios`` gives the share of each layer by name (a layer that is
    not named keeps everything) and ``sparsity`` is only its name in labels; ``sensitivity``
    finds such a vector that meets ``sparsity``.

    ``begin`` and ``end`` bound the pruning steps of a schedule, as shares of the recovery.
    ``lottery`` trains the pruned net again from epoch ``rewind`` of its first training (a
    ``random`` ticket keeps the shape and draws new weights); its recovery is that training.
    ``scratch`` is the control of all of them: the shape, trained from fresh weights for as long as
    the dense training and the recovery together.
    ``healing`` says what follows pruning: batch-norm statistics alone (``bn``), fine-tuning, or
    fine-tuning in which the dense model's answers at ``temperature`` make the share ``teacher``
    of the loss (``distill``). ``repeat`` counts fine-tunings of one pruning with other seeds.
    """

    workload: WorkloadSpec
    train: TrainSpec
    pattern: str = "dense"
    criterion: str = "magnitude"
    scope: str = "global"
    sparsity: float = 0.0
    schedule: Schedule = "oneshot"
    steps: int = 1
    begin: float = 0.0
    end: float = LAST
    rewind: int = 0
    ticket: Ticket = "winning"
    ratios: Mapping[str, float] = field(default_factory=dict)
    healing: Healing = "finetune"
    teacher: float = TEACHER
    temperature: float = TEMPERATURE
    channel_multiple: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    recovery: TrainSpec | None = None
    seed: int = 0
    repeat: int = 0

    @property
    def healing_seed(self) -> int:
        """The seed of the training after pruning: another one in each repeat."""
        return self.seed + 104_729 * self.repeat

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
    def alone(self) -> CompressionSpec:
        """What decides how much each layer can lose by itself, whatever is then made of it."""
        watches = criterion(self.criterion).learns_from == "training"
        recovery = self.recovery if watches else None
        return replace(
            self.dense,
            pattern=self.pattern,
            criterion=self.criterion,
            scope="vector",
            channel_multiple=self.channel_multiple,
            options=self.options,
            recovery=recovery,
        )

    @property
    def training(self) -> TrainSpec:
        """The training on whose device the weights are made, criteria and scores included."""
        if self.schedule in ("lottery", "lr_rewinding", "scratch"):
            return self.train
        return self.recovery or self.train

    @property
    def epochs(self) -> int:
        """Passes over the training split that making it takes, its dense model's not counted."""
        if self.is_dense:
            return self.train.epochs
        if self.schedule == "lottery":
            return self.steps * (self.train.epochs - self.rewind) + self.rewind
        if self.schedule == "scratch":
            return self.whole_training.epochs
        rounds = self.steps if self.schedule == "lr_rewinding" else 1
        return rounds * self.recovery.epochs if self.recovery else 0

    @property
    def whole_training(self) -> TrainSpec:
        """The dense training, longer by the recovery: what a net from scratch is given."""
        more = self.recovery.epochs if self.recovery else 0
        return replace(self.train, epochs=self.train.epochs + more)

    @property
    def is_control(self) -> bool:
        """Whether it is there to be beaten: pruned at random, or trained from fresh weights."""
        chance = criterion(self.criterion).control or self.ticket == "random"
        return not self.is_dense and (chance or SCHEDULES[self.schedule].control)

    @property
    def method(self) -> str:
        """The method without its sparsity, for grouping: ``unstructured magnitude global``."""
        if self.is_dense:
            return "dense"
        scope = f"{self.scope}-{digest(dict(self.ratios))[:4]}" if self.ratios else self.scope
        return " ".join([self.pattern, self.criterion, scope, *self._course()])

    def _course(self) -> list[str]:
        """Return the words for the schedule and the recovery, where they are not the usual.

        Two specs that differ in one of these have different words.
        """
        words: list[str] = [] if self.schedule == "oneshot" else [self.schedule]
        if self.steps != usual_steps(self.schedule):
            words.append(f"{self.steps}-step{'s' if self.steps > 1 else ''}")
        if (self.begin, self.end) != (0.0, LAST):
            words.append(f"{self.begin * 100:.3g}-{self.end * 100:.3g}%")
        if self.rewind:
            words.append(f"epoch-{self.rewind}")
        if self.ticket == "random":
            words.append("random-ticket")
        if self.healing != "finetune":
            words.append(self.healing)
        if (self.teacher, self.temperature) != (TEACHER, TEMPERATURE):
            words.append(f"teacher-{self.teacher:g}-at-{self.temperature:g}")
        return [*words, *(f"{name}-{value}" for name, value in self.options.items())]

    @property
    def label(self) -> str:
        """A short name for people: ``unstructured 90 % magnitude global``."""
        if self.is_dense:
            return "dense"
        head, *rest = self.method.split(" ")
        tail = f" seed {self.seed}" if self.seed else ""
        tail += f" repeat {self.repeat}" if self.repeat else ""
        share = f" {self.sparsity * 100:g} %" if ":" not in self.pattern else ""
        return f"{head}{share} {' '.join(rest)}{tail}"


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """Everything that decides an ONNX file."""

    compression: CompressionSpec
    precision: Precision = "fp32"
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
        return f"{self.compression.label}{precision} · {self.backend.label}"
