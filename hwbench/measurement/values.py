"""From raw samples to the numbers that are compared: each with its source, or why it is missing."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from hwbench import stats, units
from hwbench.errors import StageError
from hwbench.records import (
    Beside,
    CompiledModel,
    Measurement,
    MemoryReading,
    Process,
    Sitting,
    Source,
    TargetProfile,
    Value,
    Visit,
    missing,
)

_TAIL = 0.9
_RESOLUTION = 32768.0
"""Bytes that two peaks of one program may be apart: pages of 4 kB, without address randomisation
within 4 kB here for one model loaded again and again; eight times that, to be on the safe side."""
_DECIDE = 0.99
_EMULATED = "the device is emulated: {} there says nothing about a real one"


def values(
    measurement: Measurement, sitting: Sitting, compiled: CompiledModel, target: TargetProfile
) -> dict[str, Value]:
    """Return every measured metric of an artifact; what is missing has its reason.

    The median latency is the ratio to the reference times the reference's own median, so that
    what drifted during the sitting cancels. Its interval is the ratio's, times that median: it
    is for comparing models of one sitting (the reference's own is therefore a point), and the
    note has the wider one of the absolute time.
    """
    found = [
        _latency(measurement, sitting),
        _tail(measurement),
        _once(measurement, "load_time", lambda process: process.load),
        _once(measurement, "first_inference", lambda process: process.first),
        *_memory(measurement),
        _energy(measurement),
        _planned(compiled),
        Value("artifact_bytes", float(compiled.artifact_bytes), Source.STATIC),
    ]
    return {value.metric: value for value in found}


def beside(
    measurements: Mapping[str, Measurement], sitting: Sitting, other: str, margin: float
) -> dict[str, Beside]:
    """Return the latency of measured candidates over R's, with verdicts (99 %, Holm over all).

    ``measurements`` is by candidate key, ``other`` the key of R's. What was not measured is left
    out, and so is R itself.
    """
    reference = sitting.reference.latency
    spread = stats.pooled_spread(_others(sitting), reference)
    found = {}
    for key, measurement in measurements.items():
        if key == other or measurement.artifact == sitting.reference.artifact:
            continue
        try:
            found[key] = stats.ratio(measurement.latency, reference, _DECIDE, spread)
        except StageError:  # failed, or dropped from every round
            continue
    said = stats.verdicts(found, margin, _DECIDE)
    return {key: _beside(ratio, other, said[key]) for key, ratio in found.items()}


def _beside(ratio: stats.Interval, other: str, verdict: stats.Verdict) -> Beside:
    effect = stats.detectable(ratio, confidence=_DECIDE)
    return Beside(
        other,
        ratio.estimate,
        ratio.low if ratio.bounded else None,
        ratio.high if ratio.bounded else None,
        verdict.value,
        effect if math.isfinite(effect) else None,
    )


def _lacking(measurement: Measurement, metric: str, name: str, what: str) -> Value:
    if measurement.source is Source.EMULATED:
        return missing(metric, measurement.source, _EMULATED.format(what))
    failure = measurement.failures.get(name)
    reason = failure.message if failure is not None else f"the {name} pass did not get to it"
    return missing(metric, measurement.source, reason)


def _latency(measurement: Measurement, sitting: Sitting) -> Value:
    metric, mine, reference = "latency_p50", measurement.latency, sitting.reference.latency
    if not mine:
        return _lacking(measurement, metric, "latency", "time")
    try:
        level = stats.level(reference)
        if measurement.artifact == sitting.reference.artifact:
            ratio, whole = None, level
        else:
            spread = stats.pooled_spread(_others(sitting), reference)
            ratio = stats.ratio(mine, reference, spread=spread)
            whole = stats.absolute(ratio, level)
    except StageError as error:
        return missing(metric, measurement.source, error.what)
    note = f"{whole.generations} processes, {whole.rounds} rounds, without interrupted calls"
    if mine[0].clock:
        note += f", by {mine[0].clock}"
    if whole.bounded:
        ends = f"{units.text(whole.low, 's')} to {units.text(whole.high, 's')}"
        note += f"; the interval is that of the ratio to the dense model (in absolute time {ends})"
    # Models of one sitting are compared by their ratios to the reference; what the reference's
    # own time may be off by is common to all and must not make them look alike.
    if ratio is None:
        bounds: tuple[float | None, float | None] = (whole.estimate, whole.estimate)
    elif ratio.bounded:
        bounds = (ratio.low * level.estimate, ratio.high * level.estimate)
    else:
        bounds = (None, None)
    each = stats.by_generation(mine, reference)
    # A candidate that was dropped early has fewer: the drawing needs one a generation of R.
    whole_set = len(each) == len({p.generation for p in reference})
    drawn = tuple(r * level.estimate for r in each.values()) if whole_set else ()
    source = measurement.source
    return Value(metric, whole.estimate, source, *bounds, note=note, generations=drawn)


def _others(sitting: Sitting) -> list[Sequence[Process]]:
    own = sitting.reference.artifact
    rest = [m.latency for m in sitting.measurements if m.artifact != own and m.latency]
    return [*rest, sitting.shadow.latency]


def _tail(measurement: Measurement) -> Value:
    metric = "latency_p90"
    if not measurement.latency:
        return _lacking(measurement, metric, "latency", "time")
    found = stats.percentile(measurement.latency, _TAIL)
    if found is None:
        calls = sum(len(v.wall) for p in measurement.latency for v in p.visits)
        needed = stats.calls_needed(_TAIL)
        reason = f"{calls} calls are too few for it (at least {needed})"
        return missing(metric, measurement.source, reason)
    return _value(metric, found, measurement.source, "of all calls, as experienced")


def _once(measurement: Measurement, metric: str, get: Callable[[Process], float]) -> Value:
    """The median of what each process did once."""
    if not measurement.latency:
        return _lacking(measurement, metric, "latency", "time")
    seconds = [get(process) for process in measurement.latency]
    note = f"median of {len(seconds)} fresh processes, files in the page cache"
    return Value(metric, statistics.median(seconds), measurement.source, note=note)


def _memory(measurement: Measurement) -> tuple[Value, Value]:
    reading, source = measurement.memory, measurement.source
    if reading is None:
        peak, gross = (
            _lacking(measurement, metric, "memory", "memory")
            for metric in ("peak_memory", "process_memory")
        )
        return peak, gross
    note = "VmHWM of a fresh process after its runs"
    if reading.device is not None:
        gross = Value("process_memory", float(reading.after_runs), source, note=f"{note} (host)")
        return _device_memory(reading, reading.device, source), gross
    gross = Value("process_memory", float(reading.after_runs), source, note=note)
    share = reading.share
    if share is None:
        reason = "the runtime could not be measured with an empty model"
        return missing("peak_memory", source, reason), gross
    note = f"less {reading.empty_runtime} B of the same runtime with an empty model"
    for name, other in reading.variants.items():
        note += f"; {name} {units.text(other, 'B')}"
    if share < _RESOLUTION:
        # The smallest model must not lose for being too small to see: its bound stands for it.
        note += "; too little to tell from nothing, so this is an upper bound"
        return Value("peak_memory", _RESOLUTION, source, 0.0, _RESOLUTION, note=note), gross
    low, high = share - _RESOLUTION, share + _RESOLUTION
    return Value("peak_memory", float(share), source, low, high, note=note), gross


def _planned(compiled: CompiledModel) -> Value:
    kind = compiled.candidate.backend.kind
    if compiled.planned_memory is None:
        reason = f"{kind} plans no memory when it compiles"
        return missing("planned_memory", Source.STATIC, reason)
    note = f"activations as {kind}'s compiler lays them out"
    return Value("planned_memory", float(compiled.planned_memory), Source.STATIC, note=note)


def _device_memory(reading: MemoryReading, device: Mapping[str, int], source: Source) -> Value:
    """Return the peak of an accelerator's memory, what every process takes there left out.

    By the runtime's allocator; where it has none that tells, by the driver's books. Both are in
    the note.
    """
    if reading.share is None:
        reason = "the runtime does not tell what it takes of the GPU, and NVML does not count it"
        return missing(
            "peak_memory", source, f"{reason} (in a container it may not see whose it is)"
        )
    said = [f"{units.text(device[k], 'B')} {k}" for k in ("reserved",) if k in device]
    if "process" in device:
        said.append(f"by NVML {units.text(device['process'], 'B')} with the context")
    if reading.above_context is not None:
        own, context = (
            units.text(float(b), "B") for b in (reading.above_context, reading.context or 0)
        )
        said.append(f"{own} above the {context} of an empty model in the same runtime")
    by = "by the runtime's allocator" if "allocated" in device else "by NVML"
    note = f"of the GPU, {by}" + (f" ({', '.join(said)})" if said else "")
    return Value("peak_memory", float(reading.share), source, note=note)


def joules(measurement: Measurement) -> list[float]:
    """Return the joules a call of each reading that the first one's tier has counted."""
    first = measurement.energy
    if first is None:
        return []
    whole = (first, *measurement.energy_again)
    return [r.joules / r.inferences for r in whole if r.tier == first.tier]


def in_turn(figures: Sequence[float]) -> list[Process]:
    """Return readings in the shape of processes, one figure a generation."""
    blank = Process("", "candidate", 0, 0.0, 0.0, 0, ())
    return [once(dataclasses.replace(blank, generation=n), f) for n, f in enumerate(figures)]


def once(process: Process, figure: float) -> Process:
    """Return a process whose only visit gave `figure`, for what is read once in a process."""
    visit = Visit(0, 0, (figure,) * 3, (figure,) * 3, (0, 0, 0))
    return dataclasses.replace(process, visits=(visit,))


def _energy(measurement: Measurement) -> Value:
    reading = measurement.energy
    if reading is None:
        return _lacking(measurement, "energy", "energy", "energy")
    kinds = {"proxy": Source.PROXY, "model": Source.PREDICTED}
    note = f"{reading.meter} ({reading.tier}), gross"
    if reading.idle_watts:
        net = (reading.joules - reading.idle_watts * reading.seconds) / reading.inferences
        note += f"; net of {reading.idle_watts:.1f} W idle {units.text(net, 'J')}"
    if reading.note:
        note += f"; {reading.note}"
    source = kinds.get(reading.tier, measurement.source)
    each = joules(measurement)
    if len(each) == 1:
        return Value("energy", each[0], source, note=note, tier=reading.tier)
    found = stats.level(in_turn(each))
    note += f"; the middle of {len(each)} readings"
    return Value(
        "energy", found.estimate, source, found.low, found.high, note=note, tier=reading.tier
    )


def _value(metric: str, found: stats.Interval, source: Source, note: str) -> Value:
    if not found.bounded:
        return Value(metric, found.estimate, source, note=f"{note}; too few for an interval")
    return Value(metric, found.estimate, source, low=found.low, high=found.high, note=note)
