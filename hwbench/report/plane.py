"""Points in a plane, from a study: what both the page and the picture draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.records import METRICS, Result, Source, Study, Value
from hwbench.report import look


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate in a plane, in display units; ``dx`` and ``dy`` reach down and up from it."""

    result: Result
    x: float
    y: float
    dx: tuple[float, float] | None = None
    dy: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Plane:
    """A plot to draw, or (without points) the reason ``why`` there is none.

    ``front`` are the corners of the staircase in these two axes; ``left_out`` says which are not
    drawn and why; ``limits`` are lines that goals draw (the axis, where, what it says); ``about``
    tells what the axes mean; ``rem`` is how high it is drawn.
    """

    name: str
    title: str
    x_title: str
    y_title: str
    points: tuple[Point, ...] = ()
    front: tuple[tuple[float, float], ...] = ()
    left_out: tuple[str, ...] = ()
    limits: tuple[tuple[str, float, str], ...] = ()
    why: str = ""
    about: str = ""
    rem: float = 25.0


def trade_off(study: Study, cost: str) -> Plane:
    """Return accuracy against a cost (latency, memory, energy)."""
    right = look.accuracy(study)
    name, title = cost, f"{METRICS[right].title} against {METRICS[cost].title.lower()}"
    x_axis, y_axis = look.axis(study.results, cost), look.axis(study.results, right)
    if x_axis is None or y_axis is None:
        lost = right if y_axis is None else cost
        why = f"{METRICS[lost].title}: {look.why_nobody(study, lost)}"
        return Plane(name, title, METRICS[cost].title, METRICS[right].title, why=why)
    points = []
    left_out = []
    for result in look.ordered(study):
        x, y = x_axis.place(result), y_axis.place(result)
        if x is not None and y is not None:
            points.append(_point(result, x, y, x_axis, y_axis))
        else:
            left_out.append(f"{result.candidate.label}: {_why_not(result, x_axis, y_axis)}")
    return Plane(
        name,
        title,
        x_axis.title,
        y_axis.title,
        points=tuple(points),
        front=tuple(look.stairs([(p.x, p.y) for p in points])),
        left_out=tuple(left_out),
        limits=_limits(study, x_axis, y_axis),
        why="" if points else "no candidate has both numbers",
    )


def against_sparsity(study: Study) -> Plane:
    """Return accuracy against the share of the dense model's weights that is gone.

    Zeroed and removed weights count alike, as counted on the ONNX file, so that channel pruning
    and masks share an axis.
    """
    right = look.accuracy(study)
    title = f"{METRICS[right].title} against sparsity, by method"
    x_title = "Weights gone (%, static)"
    about = (
        "Weights gone: zeroed or removed, as a share of the dense model's, counted on the ONNX "
        "file; so channel pruning and masks share an axis."
    )
    y_axis = look.axis(study.results, right)
    if y_axis is None:
        why = f"{METRICS[right].title}: {look.why_nobody(study, right)}"
        return Plane("sparsity", title, x_title, METRICS[right].title, why=why, about=about)
    points = []
    left_out = []
    for result in look.ordered(study):
        y, gone = y_axis.place(result), removed(result, study)
        if y is not None and y.value is not None and gone is not None:
            dy = _reach(y, y_axis.size)
            points.append(Point(result, gone * 100, y.value / y_axis.size, dy=dy))
        else:
            reason = _why_not(result, y_axis)
            left_out.append(f"{result.candidate.label}: {reason or 'its weights were not counted'}")
    why = "" if points else "no weights were counted, or no dense model to count against"
    return Plane(
        "sparsity",
        title,
        x_title,
        y_axis.title,
        points=tuple(points),
        left_out=tuple(left_out),
        why=why,
        about=about,
    )


def promised(study: Study) -> Plane:
    """Return the speed-up measured against the one that the multiply-adds promise."""
    x_title = "Fewer multiply-adds (×, static)"
    about = (
        "Across: multiply-adds of the dense model over those that still have a non-zero weight. "
        "Up: latency of the dense model on the same backend over the candidate's. The dotted "
        "diagonal is what the arithmetic promises; points on the dashed line gained nothing."
    )
    latency = look.axis(study.results, "latency_p50")
    title = f"Speed-up: promised by the arithmetic, and {latency.source if latency else 'found'}"
    y_title = f"Speed-up (×, {latency.source})" if latency else "Speed-up (×)"
    points = []
    left_out = []
    for result in look.ordered(study):
        dense = look.dense_on(result, study)
        work = look.number(result, "effective_macs")
        whole = look.number(dense, "effective_macs")
        value = latency.place(result) if latency else None
        base = latency.place(dense) if latency and dense else None
        if (
            not work
            or not whole
            or value is None
            or base is None
            or not value.value
            or not base.value
        ):
            reason = result.failure.message if result.failure else "latency or MACs are missing"
            left_out.append(f"{result.candidate.label}: {reason}")
            continue
        ratio = base.value / value.value
        dy = None
        # The band of a prediction is common to both, and no interval of their ratio.
        known = value.source is not Source.PREDICTED
        if known and result is not dense and value.low and value.high and base.low and base.high:
            dy = (ratio - base.low / value.high, base.high / value.low - ratio)
        points.append(Point(result, whole / work, ratio, dy=dy))
    why = "" if points else "no candidate has its latency and MACs as well as its dense model's"
    return Plane(
        "promised",
        title,
        x_title,
        y_title,
        points=tuple(points),
        left_out=tuple(left_out),
        why=why,
        about=about,
    )


def removed(result: Result, study: Study) -> float | None:
    """Return which share of the dense model's weights is zero or gone, 0..1."""
    dense = look.dense_on(result, study)
    left = look.number(result, "nonzero_parameters")
    whole = look.number(dense, "parameters")
    return 1 - left / whole if left is not None and whole else None


def _point(result: Result, x: Value, y: Value, x_axis: look.Axis, y_axis: look.Axis) -> Point:
    assert x.value is not None
    assert y.value is not None
    return Point(
        result,
        x.value / x_axis.size,
        y.value / y_axis.size,
        _reach(x, x_axis.size),
        _reach(y, y_axis.size),
    )


def _reach(value: Value, size: float) -> tuple[float, float] | None:
    if value.sampling is not None:
        return value.sampling / size, value.sampling / size
    if value.value is None or value.low is None or value.high is None:
        return None
    return (value.value - value.low) / size, (value.high - value.value) / size


def _why_not(result: Result, *axes: look.Axis) -> str:
    if result.failure is not None:
        return f"failed in {result.failure.stage}: {result.failure.message}"
    reasons = []
    for axis in axes:
        value = result.values.get(axis.metric)
        if value is None:
            reasons.append(f"{METRICS[axis.metric].title} was not recorded")
        elif value.value is None:
            reasons.append(f"{METRICS[axis.metric].title}: {value.reason}")
        elif axis.place(result) is None:
            reasons.append(f"{METRICS[axis.metric].title} is {value.source}, not {axis.source}")
    return "; ".join(reasons)


def _limits(study: Study, *axes: look.Axis) -> tuple[tuple[str, float, str], ...]:
    """Return the lines that the goals draw: (``x`` or ``y``, where, what it says)."""
    lines = []
    dense = look.find(study, study.decision.dense)
    for letter, axis in zip("xy", axes, strict=True):
        for goal in study.recipe.goals:
            where: float | None = goal.limit
            if goal.metric != axis.metric:
                continue
            if goal.kind == "max_drop":
                reference = look.number(dense, goal.metric, axis.source)
                sign = -1 if METRICS[goal.metric].better == "higher" else 1
                where = None if reference is None else reference + sign * goal.limit
            if where is not None:
                lines.append((letter, where / axis.size, "goal"))
    return tuple(lines)


def trade_offs(study: Study) -> Sequence[Plane]:
    """Return a plane for latency, memory, energy and every other cost among the objectives."""
    costs = [m for m in study.recipe.objectives if METRICS[m].better == "lower"]
    always = ("latency_p50", "peak_memory", "energy")
    return [trade_off(study, m) for m in dict.fromkeys((*always, *costs))]
