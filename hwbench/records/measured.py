"""What a device said, raw, and the results made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwbench.errors import HwbenchError, StageError
from hwbench.records.made import LayerNote
from hwbench.records.metrics import Source, Value
from hwbench.records.plain import UNSAID, digest
from hwbench.records.rooflines import Roofline
from hwbench.records.specs import Candidate


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
    same backend) or ``shadow`` (S, a byte-identical copy of R). ``clock`` says what the calls were
    timed by where it was not the worker's stopwatch, ``layers`` what the device made of each layer.
    """

    artifact: str
    role: str
    generation: int
    load: float
    first: float
    warmup_calls: int
    visits: tuple[Visit, ...]
    dropped: int = 0
    clock: str = ""
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Peak resident memory of a fresh process (``VmHWM``, bytes) at its phases.

    ``variants`` holds the model's share (less the empty runtime) with other settings of the
    runtime, by what is different: ``{"without the arena": 812_000}``. ``device`` holds peaks of
    an accelerator's own memory: ``allocated`` and ``reserved`` by the runtime's allocator,
    ``process`` as the driver counts this process; None: it ran on none. ``context`` is what the
    driver counts for the same runtime with an empty model.
    """

    after_import: int
    after_load: int
    after_first: int
    after_runs: int
    empty_runtime: int | None = None
    variants: Mapping[str, int] = field(default_factory=dict)
    device: Mapping[str, int] | None = None
    context: int | None = None

    @property
    def above_context(self) -> int | None:
        """The driver's count less that of an empty runtime; None where it does not count."""
        seen = (self.device or {}).get("process")
        return None if seen is None or self.context is None else max(seen - self.context, 0)

    @property
    def share(self) -> int | None:
        """The bytes that the model takes beside its runtime; None where nobody can tell.

        Of the accelerator, if it ran on one: by the allocator, else by the driver.
        """
        if self.device is not None:
            return self.device.get("allocated", self.above_context)
        return None if self.empty_runtime is None else self.after_runs - self.empty_runtime


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

    @classmethod
    def of(cls, error: HwbenchError, stage: str = "prepare") -> Failure:
        """Return an error as data; `stage` is for those that do not say where they happened."""
        detail = "; ".join(part for part in (error.where, error.expected, error.mend) if part)
        own = error.stage if isinstance(error, StageError) else stage
        return cls(own, error.what, detail)

    def error(self) -> StageError:
        """Return the error that it was."""
        return StageError(self.stage, self.message, where=self.detail)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything one device said about one artifact; statistics are derived each time.

    ``latency`` holds one `Process` a generation; ``memory_again`` and ``energy_again`` further
    readings of other processes, where there are such. A pass that failed leaves its reason in
    ``failures`` under ``latency``, ``memory``, ``energy`` or ``outputs``.
    ``outputs`` names the file (``.npy``) with the deployed artifact's answers. ``roofline`` holds
    its layers, where they were asked for.
    """

    artifact: str
    source: Source
    latency: tuple[Process, ...] = ()
    memory: MemoryReading | None = None
    energy: EnergyReading | None = None
    outputs: Path | None = None
    failures: Mapping[str, Failure] = field(default_factory=dict)
    memory_again: tuple[MemoryReading, ...] = ()
    energy_again: tuple[EnergyReading, ...] = ()
    roofline: Roofline | None = field(default=None, metadata={UNSAID: True})


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

    def of(self, artifact: str) -> Measurement:
        """Return the measurement of one artifact, by its digest."""
        return next(m for m in self.measurements if m.artifact == artifact)


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
    roofline: Roofline | None = field(default=None, metadata={UNSAID: True})

    def number(self, metric: str) -> float | None:
        """Return the plain number of a metric, or None where it is missing."""
        value = self.values.get(metric)
        return value.value if value is not None else None
