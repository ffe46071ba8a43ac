"""What is measured: metrics, and values with their source."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


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
            Metric(
                "top1_shift",
                "fraction",
                "higher",
                "Top-1 under shift",
                "share of right answers on corrupted pictures, mean over kinds and severities",
            ),
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
            Metric(
                "planned_memory",
                "B",
                "lower",
                "Planned arena",
                "activations as the compiler lays them out, without weights and the runtime",
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
            Metric(
                "output_error",
                "score",
                "lower",
                "Output error",
                "how far the artifact's answers are from its ONNX file's, of the largest",
            ),
            Metric("compile_time", "s", "lower", "Compile time", "from ONNX file to artifact"),
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
    ``sampling`` is half of the 95 % interval that the number of samples leaves to a score: shown,
    and no part of dominance, because all candidates answer the same samples.
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
    sampling: float | None = None

    def __post_init__(self) -> None:
        """Refuse a missing number without a reason, and a metric nobody knows."""
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}")
        if (self.value is None) != bool(self.reason):
            raise ValueError(f"{self.metric}: a value, or the reason why there is none")


def missing(metric: str, source: Source, reason: str) -> Value:
    """Return the `Value` of a number that is not there, with the reason."""
    return Value(metric, None, source, reason=reason)
