"""The frozen records that the rooms hand to one another, and the metrics they speak of.

Everything here is in SI units (s, J, B; fractions for shares) and imports only the standard
library, because the worker carries this module to the device.

The nesting ``Candidate ⊃ ExportSpec ⊃ CompressionSpec`` is the cache key: `key` of each is a
content hash of everything that decides it, defaults filled in.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar

from hwbench.errors import UserError

R = TypeVar("R")


# --------------------------------------------------------------------------------------------
# metrics and values


class Source(enum.StrEnum):
    """Where a number comes from. Kinds are never mixed on one axis."""

    MEASURED = "measured"
    EMULATED = "emulated"
    PREDICTED = "predicted"
    PROXY = "proxy"
    STATIC = "static"


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity hwbench knows: its unit and which direction is better, once."""

    name: str
    unit: Literal["s", "J", "B", "fraction", "count", "score"]
    better: Literal["lower", "higher"]
    title: str
    about: str


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        m.name: m
        for m in (
            Metric("top1", "fraction", "higher", "Top-1 accuracy", "share of right answers"),
            Metric("score", "score", "higher", "Score", "the workload's own score"),
            Metric("latency_p50", "s", "lower", "Latency p50", "median time of one inference"),
            Metric("latency_p90", "s", "lower", "Latency p90", "9 of 10 inferences are faster"),
            Metric("load_time", "s", "lower", "Load time", "from file to a ready session"),
            Metric("first_inference", "s", "lower", "First inference", "the first call after load"),
            Metric(
                "peak_memory",
                "B",
                "lower",
                "Peak memory",
                "peak resident memory less that of the same runtime with an empty model",
            ),
            Metric("process_memory", "B", "lower", "Process memory", "peak resident memory, gross"),
            Metric("energy", "J", "lower", "Energy", "joules per inference"),
            Metric(
                "energy_ops",
                "J",
                "lower",
                "Energy by operations",
                "multiply-adds and bytes of weights times energy per operation: ranks, no more",
            ),
            Metric("artifact_bytes", "B", "lower", "Artifact", "bytes of the files to ship"),
            Metric("parameters", "count", "lower", "Parameters", "weights in the ONNX file"),
            Metric(
                "nonzero_parameters", "count", "lower", "Non-zeros", "weights that are not zero"
            ),
            Metric("macs", "count", "lower", "MACs", "multiply-adds of one inference"),
            Metric(
                "effective_macs", "count", "lower", "Effective MACs", "those with a non-zero weight"
            ),
            Metric("sparsity", "fraction", "higher", "Sparsity", "share of zero weights, on file"),
            Metric("denormals", "count", "lower", "Denormals", "subnormal weights on file"),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Value:
    """One number with its source; or the reason why there is none (``value is None``).

    ``low`` and ``high`` bound a 95 % interval where there is one; ``note`` says what kind of
    meter, phase or convention produced it. ``tier`` is the meter's (meter, counter, model,
    proxy; energy only): tiers are never compared. ``generations`` holds one figure a generation
    of fresh processes, where there are such: what else it might have been is drawn from them.
    """

    metric: str
    value: float | None
    source: Source
    low: float | None = None
    high: float | None = None
    reason: str = ""
    note: str = ""
    tier: str = ""
    generations: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a missing number without a reason, and a metric nobody knows."""
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}")
        if (self.value is None) != bool(self.reason):
            raise ValueError(f"{self.metric}: a value, or the reason why there is none")


def missing(metric: str, source: Source, reason: str) -> Value:
    """Return the `Value` of a number that is not there, with the reason."""
    return Value(metric, None, source, reason=reason)


# --------------------------------------------------------------------------------------------
# plug-ins, workloads, specs


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


# --------------------------------------------------------------------------------------------
# what the rooms return


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
class OnnxModel:
    """An ONNX file that agrees with PyTorch, and what was counted on it.

    ``input_shape`` is without the batch; ``parity`` the largest error relative to PyTorch.
    """

    spec: ExportSpec
    path: Path
    digest: str
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_names: tuple[str, ...]
    layers: tuple[Layer, ...]
    parameters: int
    nonzero: int
    macs: int
    denormals: int
    parity: float
    opset: int


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
    ``versions`` says what compiled it.
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


@dataclass(frozen=True, slots=True)
class Conditions:
    """The three rings of circumstances under which something was measured.

    ``identity`` what the device is, ``software`` what runs on it, ``state`` how it felt.
    A change of identity or software starts a new series and never enters a comparison.
    """

    identity: Mapping[str, Any]
    software: Mapping[str, Any]
    state: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Content hash of identity and software (state moves all the time)."""
        return digest({"identity": self.identity, "software": self.software})


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit of a round to one worker: raw samples of each call, in call order.

    ``wall`` and ``cpu`` in seconds per call, ``switches`` involuntary context switches over all
    threads of the process per call.
    """

    round: int
    order: int
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    switches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Process:
    """One fresh process of one candidate: what it cost to get ready, then its visits.

    Times in seconds; ``role`` is ``candidate``, ``reference`` (R, the dense baseline on the
    same backend) or ``shadow`` (S, a byte-identical copy of R).
    """

    artifact: str
    role: str
    generation: int
    load: float
    first: float
    warmup_calls: int
    visits: tuple[Visit, ...]
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Peak resident memory of a fresh process (``VmHWM``, bytes) at its phases.

    ``variants`` holds the model's share (less the empty runtime) with other settings of the
    runtime, by what is different: ``{"without the arena": 812_000}``.
    """

    after_import: int
    after_load: int
    after_first: int
    after_runs: int
    empty_runtime: int | None = None
    variants: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """What a meter saw over ``inferences`` calls that took ``seconds``: gross joules.

    ``idle_watts`` is what the device draws when idle (None: unknown); ``meter`` and ``tier``
    (meter, counter, model, proxy) say who counted.
    """

    joules: float
    inferences: int
    seconds: float
    idle_watts: float | None
    meter: str
    tier: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate has no result: the room it failed in, one sentence, and the details."""

    stage: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything one device said about one artifact; statistics are derived each time.

    ``latency`` holds one `Process` a generation. A pass that failed leaves its reason in
    ``failures`` under ``latency``, ``memory``, ``energy`` or ``outputs``.
    ``outputs`` names the file (``.npy``) with the deployed artifact's answers.
    """

    artifact: str
    source: Source
    latency: tuple[Process, ...] = ()
    memory: MemoryReading | None = None
    energy: EnergyReading | None = None
    outputs: Path | None = None
    failures: Mapping[str, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sitting:
    """One measuring session: everything in it was interleaved, so any two can be compared.

    ``reference`` is R, the dense model on the recipe's first backend; ``shadow`` is S, its
    byte-identical copy: what the two differ by is what this sitting cannot tell apart.
    ``measurements`` has one entry an artifact (R's own included, by digest). ``valid`` is False
    when S did not come out equal to R; ``notes`` says what happened on the way (stopped early,
    eliminated, noise-limited, dropped visits).
    """

    reference: Measurement
    shadow: Measurement
    measurements: tuple[Measurement, ...]
    before: Conditions
    after: Conditions
    seconds: float
    valid: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """What artifacts answered to a split of the data, and nothing else about them."""

    measurements: tuple[Measurement, ...]

    def of(self, artifact: str) -> Measurement:
        """Return the measurement of one artifact, by its digest."""
        return next(m for m in self.measurements if m.artifact == artifact)


@dataclass(frozen=True, slots=True)
class Beside:
    """The latency of one candidate over that of another, both of one sitting.

    ``other`` is the other's candidate key; ``ratio`` below 1 means faster, ``low`` and ``high``
    bound its 99 % interval (None: unbounded). ``verdict`` (faster, slower, equivalent,
    ambiguous) is corrected for all comparisons decided together; ``detectable`` is the smallest
    effect that would have been found 9 times of 10.
    """

    other: str
    ratio: float
    low: float | None
    high: float | None
    verdict: str
    detectable: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One candidate's row: its values, or why it has none.

    ``beside`` is its latency over that of R, the dense model that the sitting refers to.
    """

    candidate: Candidate
    values: Mapping[str, Value]
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    layers: tuple[LayerNote, ...] = ()
    artifact: str = ""
    fingerprint: str = ""
    measured_at: str = ""
    beside: Beside | None = None

    def number(self, metric: str) -> float | None:
        """Return the plain number of a metric, or None where it is missing."""
        value = self.values.get(metric)
        return value.value if value is not None else None


# --------------------------------------------------------------------------------------------
# what the user asked for


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
    half-width of every ratio is at most ``half_width``.
    """

    policy: str = "quick"
    generations: int = 3
    looks: tuple[int, ...] = (12, 25)
    half_width: float = 0.02
    visit_seconds: float = 0.02
    min_calls: int = 5
    max_calls: int = 50
    warmup_calls: int = 10
    warmup_seconds: float = 3.0
    memory_runs: int = 20
    energy_seconds: float = 1.0
    timeout: float = 60.0
    max_time: float = 600.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Method:
    """One row of a search: a pruning method and the sparsities to try."""

    pattern: str
    criterion: str
    scope: str
    schedule: Schedule
    steps: int
    sparsities: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


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


@dataclass(frozen=True, slots=True)
class Power:
    """Figures for the energy proxy: watts when idle and per busy core, and who says so."""

    idle_watts: float
    core_watts: float
    source: str


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


# --------------------------------------------------------------------------------------------
# what was decided


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one candidate stands: on the front, dominated (by whom), out, or chosen.

    ``on_front`` is the probability of being on the front, by bootstrap over the generations;
    None where it cannot be told.
    """

    candidate: str
    status: Literal["chosen", "front", "dominated", "missing", "failed"]
    meets_goals: bool
    reasons: tuple[str, ...] = ()
    on_front: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model to ship on this device, and why.

    ``chosen`` and ``dense`` are candidate keys; ``chosen`` is None when no candidate meets the
    goals. ``test`` holds the test split's score of the chosen and of the dense model, read once.
    ``confirmed`` is how the chosen model did head to head with its rivals, in fresh processes;
    ``proxies`` says in sentences what would change if the numbers that are proxies were off.
    """

    target: str
    recipe: str
    chosen: str | None
    dense: str | None
    verdict: Literal["pruned", "dense", "none"]
    reason: str
    standings: tuple[Standing, ...]
    test: Mapping[str, Value] = field(default_factory=dict)
    confirmed: tuple[Beside, ...] = ()
    proxies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """A whole run of one recipe on one target: what the report shows.

    ``versions`` is the host's software; ``started`` ISO 8601 in UTC; ``seconds`` the wall time
    of each phase by name, of this run.
    """

    recipe: Recipe
    target: TargetProfile
    results: tuple[Result, ...]
    decision: Decision
    conditions: Conditions | None
    versions: Mapping[str, str]
    started: str
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------
# records as JSON, and their content hash


def to_json(value: Any) -> Any:
    """Return `value` as plain JSON data: dicts, lists, strings, numbers, booleans, None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} does not go into a record")


def from_json(kind: type[R], data: Any) -> R:
    """Return the record of type `kind` that `to_json` turned into `data`.

    Raises `UserError` when the data does not fit, for example when a newer hwbench wrote it.
    """
    try:
        return typing.cast(R, _revive(kind, data))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"cannot read a {kind.__name__} record: {error}",
            mend="was it written by another version of hwbench? Run the bench again",
        ) from error


def _revive(kind: Any, data: Any) -> Any:  # noqa: PLR0911  (one return a kind reads best)
    if kind is Any or data is None:
        return data
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        return _revive(next(a for a in args if a is not type(None)), data)
    if origin is tuple:
        return tuple(_revive(args[0], v) for v in data)
    if origin in (Mapping, dict):
        return {k: _revive(args[1], v) for k, v in data.items()}
    if origin is Literal:
        if data not in args:
            raise ValueError(f"{data!r} is not one of {args}")
        return data
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        unknown = set(data) - set(hints)
        if unknown:
            raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
        return kind(**{name: _revive(hints[name], value) for name, value in data.items()})
    if isinstance(kind, type) and issubclass(kind, enum.Enum | Path):
        return kind(data)
    return float(data) if kind is float else data


def digest(value: Any) -> str:
    """Return a 16-digit content hash of a record or of plain data (SHA-256, canonical JSON)."""
    text = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(*paths: Path) -> str:
    """Return a 16-digit content hash of files, in the order given (names do not count)."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()[:16]
