"""Predicted time of a model on a core, from its operators by class."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hwbench.backends import REFERENCE
from hwbench.errors import StageError
from hwbench.prediction import classes
from hwbench.prediction.cycles import Counts
from hwbench.records import Candidate, OnnxModel, Source, TargetProfile, Value, missing

CORES = ("cortex-a53", "cortex-a72", "cortex-a76")
TRANSFER = (0.90, 1.45)
"""What another runtime than the published one (ncnn) may make of it: no number to check against."""
_CALL, _STEP = 50e-6, 5e-6
"""Assumed: what a call and each of its steps may cost besides. Networks of the fit are too large
to tell; it widens the band of small ones."""
_HALF_PRECISION = 2.0
"""fp32 takes as long as the fp16 that a table was published in, or up to twice as long."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds on one thread in fp32, the band around them, and each layer's share in seconds.

    ``notes`` says what the figures rest on and where they are weak.
    """

    core: str
    seconds: float
    low: float
    high: float
    layers: Mapping[str, float]
    notes: tuple[str, ...]


def core_of(target: TargetProfile) -> str | None:
    """Return the core of a target if predictions are known for it: the one code is compiled for."""
    named = (str(spec.options.get("mcpu", "")) for spec in target.backends)
    return next((name for name in named if name in CORES), None)


def predict(
    model: OnnxModel, core: str, backend: str = "", pattern: str = "unstructured"
) -> Prediction:
    """Return the predicted time of an ONNX file at batch 1, fp32, one thread.

    The classes are fitted to ncnn, which is what no `backend` means; another one's kernels have
    shares of ncnn's time. Where zeros are skipped, `pattern` says how they lie. Raises
    `StageError` for a core without published figures, or a file whose shapes stay open.
    """
    figures = _figures(core)
    zeros = {layer.name: layer.sparsity for layer in model.layers}
    layers = {}
    for name, counts in classes.by_layer(model).items():
        seconds = sum(figures["seconds_per"][kind] * amount for kind, amount in counts.items())
        kind = next((kind for kind in classes.MACS if kind in counts), "")
        layers[name] = seconds * _share(backend, kind, pattern, zeros.get(name, 0.0))
    seconds = sum(layers.values())
    half = figures["arithmetic"] == "fp16"
    # The middle of "as long" and "twice as long", and the band that reaches both.
    middle = math.sqrt(_HALF_PRECISION) if half else 1.0
    down = _together(figures["low"], TRANSFER[0], 1 / middle)
    up = _together(figures["high"], TRANSFER[1], middle)
    notes = [f"operator classes fitted to ncnn on {figures['board']}, one thread, fp32"]
    if backend in _json("prices.json")["prices"]:
        notes.append("shares of other runtimes' layers counted under QEMU for cortex-a72")
        notes.append("runtimes are not told apart, only what they make of zeros")
    if half:
        notes.append("its published times are fp16's: fp32 lies between those and twice those")
    if seconds < figures["fastest_s"]:
        notes.append("smaller than any network of the fit: what a call costs may outweigh it")
    return Prediction(
        core=core,
        seconds=seconds * middle,
        low=seconds * middle * down,
        high=seconds * middle * up + _CALL + _STEP * len(layers),
        layers={name: part * middle for name, part in layers.items()},
        notes=tuple(notes),
    )


def has_counts(core: str) -> bool:
    """Return whether the model that counts was fitted for a core."""
    return "counts" in _figures(core)


def from_counts(counts: Counts, core: str) -> Prediction:
    """Return the predicted time of an artifact from what it was counted to do.

    Raises `StageError` for a core without published figures.
    """
    figures = _figures(core)
    fitted = figures.get("counts")
    if fitted is None:
        raise StageError("predict", f"nothing was fitted to counts for {core}")
    what = (counts.instructions, *counts.misses)
    seconds = sum(per * n for per, n in zip(fitted["seconds_per"], what, strict=True))
    note = (
        "instructions and cache misses of this very artifact, counted under QEMU; their price "
        f"fitted to ncnn on {figures['board']}, one thread"
    )
    if figures["arithmetic"] == "fp16":
        note += "; its published times are fp16's, an instruction is taken to cost as much in fp32"
    return Prediction(
        core=core,
        seconds=seconds,
        low=seconds * _together(fitted["low"], TRANSFER[0]),
        high=seconds * _together(fitted["high"], TRANSFER[1]),
        layers={},
        notes=(note,),
    )


def value(model: OnnxModel, candidate: Candidate, core: str) -> Value:
    """Return the predicted latency of a candidate with its band, or why there is none."""
    try:
        backend, pattern = candidate.backend.kind, candidate.compression.pattern
        return _value(candidate, lambda: predict(model, core, backend, pattern))
    except StageError as error:
        return missing("latency_p50", Source.PREDICTED, error.what)


def counted(candidate: Candidate, counts: Counts | StageError, core: str) -> Value:
    """Return the predicted latency of a candidate from what its artifact was counted to do."""
    if isinstance(counts, StageError):
        return missing("latency_p50", Source.PREDICTED, counts.what)
    return _value(candidate, lambda: from_counts(counts, core))


def _value(candidate: Candidate, find: Callable[[], Prediction]) -> Value:
    refused = _refused(candidate)
    if refused:
        return missing("latency_p50", Source.PREDICTED, refused)
    prediction = find()
    return Value(
        "latency_p50",
        prediction.seconds,
        Source.PREDICTED,
        low=prediction.low,
        high=prediction.high,
        note="; ".join(prediction.notes),
    )


def _refused(candidate: Candidate) -> str:
    """Return why nothing can be said of a candidate, or nothing."""
    if candidate.export.precision != "fp32":
        return f"{candidate.export.precision} is not predicted: its gain would be overstated"
    if candidate.threads != 1:
        return f"{candidate.threads} threads are not predicted: they would be 20 to 30 % off"
    if candidate.batch != 1:
        return "only batch 1 is predicted"
    return ""


def _share(backend: str, kind: str, pattern: str, sparsity: float) -> float:
    """Return what a backend takes for a layer, as a share of ncnn's time for the dense one.

    Dense layers cost what they cost ONNX Runtime: which runtime is faster depends on more than
    the class (a small network came out four times off for TVM), so they are not told apart here.
    """
    prices = _json("prices.json")["prices"]
    shares, reference = prices.get(backend, {}).get(kind), prices[REFERENCE.kind].get(kind)
    if shares is None or reference is None:
        return 1.0
    steps = {**shares["dense"], **shares.get(pattern, shares.get("unstructured", {}))}
    known = sorted((float(at), float(share)) for at, share in steps.items())
    base: float = reference["dense"]["0.0"] / known[0][1]
    for (left, a), (right, b) in itertools.pairwise(known):
        if sparsity <= right:
            return base * (a + (b - a) * (sparsity - left) / (right - left))
    return base * known[-1][1]


@functools.cache
def _json(name: str) -> Mapping[str, Any]:
    text = resources.files("hwbench.prediction").joinpath(name).read_text()
    found: Mapping[str, Any] = json.loads(text)
    return found


def _figures(core: str) -> Mapping[str, Any]:
    cores: Mapping[str, Any] = _json("coefficients.json")["cores"]
    if core not in cores:
        raise StageError(
            "predict", f"no published times for {core or 'this core'}", expected=", ".join(cores)
        )
    figures: Mapping[str, Any] = cores[core]
    return figures


def _together(*factors: float) -> float:
    """Return one factor for several uncertainties that are independent of one another."""
    spread = math.sqrt(sum(math.log(f) ** 2 for f in factors))
    return math.exp(spread if factors[0] > 1 else -spread)
