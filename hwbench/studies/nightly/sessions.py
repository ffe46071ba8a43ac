"""From a session to changes: tonight's artifact over the pinned one, metric by metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench import measurement, stats
from hwbench.errors import StageError
from hwbench.executor.jobs import Inputs
from hwbench.measurement.values import once
from hwbench.pipeline import scoring
from hwbench.pipeline.session import Context
from hwbench.records import (
    METRICS,
    Change,
    Measurement,
    Process,
    Sitting,
    Value,
)
from hwbench.regress import paired_chance
from hwbench.studies.nightly.pinned_models import Model

if TYPE_CHECKING:
    import numpy as np

DECIDE = 0.99
_EXACT = ("peak_memory", "process_memory", "artifact_bytes")
View = Callable[[Process], Process]
Key = tuple[str, str]
"""The label of a candidate and a metric."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArtifactPair:
    """Two artifacts of one session, the pinned one and another."""

    label: str
    pinned: Model
    tonight: Model


@dataclasses.dataclass(frozen=True, slots=True)
class SessionChanges:
    """What a session shows: changes by label and metric, the source of each, why some lack."""

    changes: Mapping[Key, Change]
    sources: Mapping[Key, str]
    reasons: Mapping[Key, str]


def changes(
    context: Context, session: Sitting, pairs: Sequence[ArtifactPair], data: Inputs
) -> SessionChanges:
    """Return the changes of every pair in a session (all but the compile time)."""
    changes: dict[Key, Change] = {}
    sources: dict[Key, str] = {}
    reasons: dict[Key, str] = {}
    spreads = {name: _spread(session, view) for name, view in _VIEWS.items()}
    for pair in pairs:
        sides = (pair.pinned, pair.tonight)
        pinned, tonight = (session.of(m.compiled.digest) for m in sides)
        before, now = (
            {**measurement.values(one, session, m.compiled, context.target)}
            for m, one in zip(sides, (pinned, tonight), strict=True)
        )
        score = _scores(context, sides, (pinned, tonight), data)
        for metric in (*_VIEWS, *_EXACT):
            view = _VIEWS.get(metric)
            if metric == "energy" and before[metric].tier != "proxy":
                view = None  # a meter's joules are more than its CPU seconds
            ratio = _ratio(tonight, pinned, view, spreads.get(metric)) if view else None
            key = pair.label, metric
            changes[key] = _change(before[metric], now[metric], ratio)
            sources[key] = _source(now[metric], before[metric])
            reasons[key] = now[metric].reason or before[metric].reason
        key = pair.label, data.metric
        changes[key] = dataclasses.replace(
            _change(*score, None), chance=_chance(pinned, tonight, data, score)
        )
        sources[key] = _source(score[1], score[0])
        reasons[key] = score[1].reason or score[0].reason
    return SessionChanges(changes, sources, reasons)


def shadow(session: Sitting) -> Change:
    """Return what the pinned dense model's own copy is off by: the session's error."""
    spread = _spread(session, _VIEWS["latency_p50"])
    try:
        interval = stats.ratio(session.shadow.latency, session.reference.latency, DECIDE, spread)
    except StageError:
        return Change()
    return _change_of(None, None, interval)


# --------------------------------------------------------------------------------------------
# inside


def _cpu(process: Process) -> Process:
    """Return a process whose times are its CPU seconds: what a proxy of energy counts."""
    visits = tuple(dataclasses.replace(v, wall=v.cpu) for v in process.visits)
    return dataclasses.replace(process, visits=visits)


def _load(process: Process) -> Process:
    return once(process, process.load)


_VIEWS: Mapping[str, View] = {"latency_p50": lambda p: p, "load_time": _load, "energy": _cpu}
"""Metrics that have one figure a process or more, and where it lies."""


def _spread(session: Sitting, view: View) -> stats.Spread | None:
    reference = session.reference.artifact
    others = [m.latency for m in session.measurements if m.artifact != reference and m.latency]
    processes = [[view(p) for p in measured] for measured in (*others, session.shadow.latency)]
    return stats.pooled_spread(processes, [view(p) for p in session.reference.latency])


def _ratio(
    tonight: Measurement, pinned: Measurement, view: View, spread: stats.Spread | None
) -> stats.Interval | None:
    numerator, denominator = ([view(p) for p in m.latency] for m in (tonight, pinned))
    try:
        return stats.ratio(numerator, denominator, DECIDE, spread)
    except StageError:  # failed, or never in one round together
        return None


def _change(before: Value, now: Value, ratio: stats.Interval | None) -> Change:
    if before.value is None or now.value is None:
        return Change(before.value, now.value)
    if ratio is not None:
        return _change_of(before.value, before.value * ratio.estimate, ratio)
    if before.source is not now.source or before.tier != now.tier or not before.value:
        return Change(before.value, now.value)
    return Change(before.value, now.value, now.value / before.value)


def _change_of(before: float | None, now: float | None, ratio: stats.Interval) -> Change:
    ends = (ratio.low, ratio.high) if ratio.bounded else (0.0, None)
    return Change(before, now, ratio.estimate, *ends)


def _source(now: Value, before: Value) -> str:
    value = now if now.value is not None else before
    return value.tier or value.source.value


def _scores(
    context: Context,
    models: Sequence[Model],
    measured: Sequence[Measurement],
    data: Inputs,
) -> tuple[Value, Value]:
    scores = []
    for model, one in zip(models, measured, strict=True):
        future = scoring.asked(context.line, context.recipe.workload, model.onnx, one, data)
        scores.append(scoring.score(future, one, data, one.source)[0])
    return scores[0], scores[1]


def _chance(
    pinned: Measurement, tonight: Measurement, data: Inputs, score: tuple[Value, Value]
) -> float | None:
    """Return how probable the difference of accuracy is by chance, from the same samples.

    Only where "right" can be told from the answers themselves: the largest is the label.
    """
    import numpy as np

    if METRICS[data.metric].unit != "fraction" or None in (score[0].value, score[1].value):
        return None
    labels = np.load(data.labels)
    right = []
    for file, value in ((pinned.outputs, score[0].value), (tonight.outputs, score[1].value)):
        hits = _right(file, labels)
        if hits is None or value is None or abs(float(hits.mean()) - value) > 1e-6:
            return None
        right.append(hits)
    return paired_chance(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))


def _right(file: Path | None, labels: np.ndarray) -> np.ndarray | None:
    import numpy as np

    if file is None:
        return None
    answers = np.load(file)
    if answers.ndim != 2 or labels.shape != answers.shape[:1]:
        return None
    right: np.ndarray = answers.argmax(axis=1) == labels
    return right
