"""What the user asked for: recipes, targets, goals, policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hwbench.records.methods import Schedule
from hwbench.records.plain import UNSAID
from hwbench.records.shifted import ShiftSpec
from hwbench.records.specs import (
    LAST,
    TEACHER,
    TEMPERATURE,
    Healing,
    PluginSpec,
    Precision,
    Ticket,
    TrainSpec,
    WorkloadSpec,
)

Strategy = Literal["train_all", "latency_first"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a metric in SI units: ``max``, ``min`` or ``max_drop`` from the dense model."""

    metric: str
    kind: Literal["max", "min", "max_drop"]
    limit: float

    @property
    def label(self) -> str:
        """The goal's name in tables: ``top1.max_drop``."""
        return f"{self.metric}.{self.kind}"


@dataclass(frozen=True, slots=True)
class MeasureSpec:
    """How a measuring session is run; see docs/measuring.md for what each figure does.

    ``looks`` are the rounds after which a generation may stop, on width only: when the 95 %
    half-width of every ratio is at most ``half_width``. The sitting stops after 5 of its
    ``generations`` or more when every 99 % half-width is. ``eliminate``: who is worse than
    another in all that is known is measured no further. ``readings``: how often memory and energy
    are read, each time in fresh processes. ``roofline``: after its energy, every layer of an
    artifact is timed alone, where its runtime can.
    """

    policy: str = "quick"
    generations: int = 5
    looks: tuple[int, ...] = (12,)
    half_width: float = 0.02
    visit_seconds: float = 0.02
    min_calls: int = 5
    max_calls: int = 100
    warmup_calls: int = 10
    warmup_seconds: float = 3.0
    memory_runs: int = 20
    energy_seconds: float = 1.0
    timeout: float = 60.0
    max_time: float = 600.0
    seed: int = 0
    eliminate: bool = True
    readings: int = 1
    roofline: bool = field(default=False, metadata={UNSAID: True})


@dataclass(frozen=True, slots=True)
class Method:
    """One row of a search: a pruning method and the sparsities to try.

    The fields are those of `CompressionSpec`.
    """

    pattern: str
    criterion: str
    scope: str
    schedule: Schedule
    steps: int
    sparsities: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    begin: float = 0.0
    end: float = LAST
    rewind: int = 0
    ticket: Ticket = "winning"
    ratios: Mapping[str, float] = field(default_factory=dict)
    healing: Healing = "finetune"
    teacher: float = TEACHER
    temperature: float = TEMPERATURE


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """How a search spends its time.

    ``strategy``: ``train_all`` trains every candidate that is tried; ``latency_first`` measures
    each untrained and trains only what can still win. ``trials`` and ``minutes`` bound how many
    are tried (None: no bound). ``repeats`` fine-tuning seeds are trained where accuracies decide.
    """

    strategy: Strategy = "train_all"
    sampler: PluginSpec = field(default_factory=lambda: PluginSpec("grid"))
    trials: int | None = None
    minutes: float | None = None
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """A study: what to compress, how, how to measure it, and what would be good enough."""

    name: str
    workload: WorkloadSpec
    train: TrainSpec
    recovery: TrainSpec
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    backends: tuple[PluginSpec, ...]
    objectives: tuple[str, ...]
    goals: tuple[Goal, ...]
    choose: str
    batch: int
    measure: MeasureSpec
    title: str = ""
    precisions: tuple[Precision, ...] = ("fp32",)
    shift: ShiftSpec | None = None
    sensitivity: bool = False
    search: SearchSpec = field(default_factory=SearchSpec)


@dataclass(frozen=True, slots=True)
class Power:
    """Figures for the energy proxy: watts when idle and per busy core, and who says so."""

    idle_watts: float
    core_watts: float
    source: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """Which GPU a target is: its UUID or number (``any``: the only one), and a part of its name.

    ``capability`` is what compilers make code for (``9.0``; empty: unknown), ``memory_bytes`` its
    memory (0: unknown until it is measured).
    """

    which: str = "any"
    name: str = ""
    capability: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TargetProfile:
    """A device: what it is, how it is reached, what runs there and how it is measured."""

    name: str
    title: str
    soc: str
    isa: str
    cores: int
    ram_bytes: int
    features: tuple[str, ...]
    connection: PluginSpec | None
    how_to_reach: str
    threads: int
    affinity: tuple[int, ...]
    backends: tuple[PluginSpec, ...]
    channel_multiple: int
    power: Power | None
    meters: tuple[PluginSpec, ...]
    throttle_celsius: float | None
    measure: Mapping[str, Any] = field(default_factory=dict)
    gpu: Gpu | None = None
    model: str = ""
