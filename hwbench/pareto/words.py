"""Changes between two values, as a manager reads them."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench import units
from hwbench.pareto.front import compare, usable
from hwbench.records import METRICS, Goal, Result, Source, Value

_SAYS = {"s": ("faster", "slower"), "B": ("smaller", "larger"), "J": ("less", "more")}


def named(result: Result) -> str:
    """Return a candidate's name in a sentence: ``channel 50 % l2 local on tvm``."""
    candidate = result.candidate
    name = candidate.label.removesuffix(f" · {candidate.backend.label}")
    control = " (a control)" if candidate.compression.is_control else ""
    return f"{name}{control} on {candidate.backend.label}"


def accuracy_metric(objectives: Sequence[str], results: Sequence[Result]) -> str | None:
    """Return the metric of how right the model is: ``top1`` or ``score``, or None."""
    known = ("top1", "score")
    asked = next((m for m in objectives if m in known), None)
    found = (m for m in known if any(usable(r, m) is not None for r in results))
    return asked or next(found, None)


def source_note(value: Value) -> str:
    """Return `` (proxy)`` and the like; nothing for a measured number."""
    return "" if value.source is Source.MEASURED else f" ({value.source})"


def gain(value: Value, reference: Value) -> str:
    """Return ``1.48 × faster, 95 % interval 1.45–1.51`` for costs, a difference otherwise.

    The interval is the widest ratio that the two intervals allow, so that it leaves out 1
    exactly when the intervals do not touch.
    """
    assert value.value is not None
    assert reference.value is not None
    metric = METRICS[value.metric]
    ratio = _ratio(reference.value, value.value)
    if metric.better == "higher" or ratio is None:
        return units.difference(value.value - reference.value, metric.unit)
    words = _SAYS.get(metric.unit, ("less", "more"))
    parts = [f"{ratio:.2f} × {words[0]}" if ratio >= 1 else f"{1 / ratio:.2f} × {words[1]}"]
    ends = _ends(value, reference)
    if value.source is Source.PREDICTED:
        parts.append("differences below 25 % are ties")
    elif ends is not None:
        low, high = ends if ratio >= 1 else (1 / ends[1], 1 / ends[0])
        parts.append(f"95 % interval {low:.2f}–{high:.2f}")
    return ", ".join(parts)


def change(value: Value, reference: Value, goal: Goal | None = None) -> str:
    """Return ``accuracy 87.6 % (-0.4 pp, allowed -1.0 pp)`` or ``35 % less peak memory``."""
    assert value.value is not None
    assert reference.value is not None
    metric = METRICS[value.metric]
    title = metric.title.lower()
    label = source_note(value)
    sign = -1 if metric.better == "higher" else 1
    allowed = f", allowed {units.difference(sign * goal.limit, metric.unit)}" if goal else ""
    if metric.better == "higher" or goal:
        difference = units.difference(value.value - reference.value, metric.unit)
        return f"{title} {units.text(value.value, metric.unit)} ({difference}{allowed}){label}"
    if compare(value, reference) == 0:
        return f"{title} the same within the noise{label}"
    ratio = _ratio(value.value, reference.value)
    if ratio is None:
        return f"{title} {units.difference(value.value - reference.value, metric.unit)}{label}"
    if ratio > 2:
        return f"{ratio:.1f} × the {title}{label}"
    word = "less" if ratio < 1 else "more"
    share = abs(ratio - 1) * 100
    return f"{share:.0f} % {word} {title}{label}" if share >= 1 else f"{title} within 1 %{label}"


def _ratio(a: float, b: float) -> float | None:
    return a / b if a > 0 and b > 0 else None


def _ends(value: Value, reference: Value) -> tuple[float, float] | None:
    if value.low is None or value.high is None or reference.low is None or reference.high is None:
        return None
    if value.low <= 0 or reference.low <= 0:
        return None
    return reference.low / value.high, reference.high / value.low
