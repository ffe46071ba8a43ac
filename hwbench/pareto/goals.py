"""Does a candidate meet a goal? A missing number never does."""

from __future__ import annotations

from hwbench import units
from hwbench.pareto.front import usable
from hwbench.records import METRICS, Goal, Result, Value

# Goals are typed in decimal ("1pp") and held against binary fractions: 0.88 - 0.87 is a hair
# more than 0.01, and a user who reads "-1.0 pp, allowed -1.0 pp: missed" stops believing.
_HAIR = 1e-9


def meets(result: Result, goal: Goal, dense: Result | None) -> tuple[bool, str]:
    """Return whether the goal is met, and one sentence with the figures.

    `dense` is the dense model to compare with (see `baseline`); only ``max_drop`` needs it, and
    a drop is a change for the worse whichever way the metric runs. The numbers decide; when the
    interval reaches across the limit the sentence says that the noise could turn it.
    """
    title = METRICS[goal.metric].title
    value = usable(result, goal.metric)
    if value is None:
        return False, f"{title} is missing ({_reason(result, goal.metric)}): a goal not met"
    reference = usable(dense, goal.metric) if dense is not None else None
    if goal.kind == "max_drop" and reference is None:
        return False, f"{title} of the dense model is missing: a drop cannot be told, not met"
    if goal.kind == "max_drop" and reference is not None and reference.source is not value.source:
        kinds = f"{value.source}, that of the dense model {reference.source}"
        return False, f"{title} is {kinds}: a drop cannot be told, not met"
    excess = shortfall(result, goal, dense)
    assert excess is not None
    assert value.value is not None
    met = excess <= _HAIR
    verdict = "met" if met else "missed"
    doubt = ", within the noise of the limit" if _reaches_across(value, goal, reference) else ""
    return met, f"{title} {_figures(value, goal, reference)}: {verdict}{doubt}"


def shortfall(result: Result, goal: Goal, dense: Result | None) -> float | None:
    """Return by which share of the limit a goal is missed (≤ 0: met), None if it cannot be told."""
    value = usable(result, goal.metric)
    reference = usable(dense, goal.metric) if dense is not None else None
    if value is None or value.value is None:
        return None
    if goal.kind != "max_drop":
        over = value.value - goal.limit if goal.kind == "max" else goal.limit - value.value
        return over / (abs(goal.limit) or 1.0)
    if reference is None or reference.value is None or reference.source is not value.source:
        return None
    drop = _drop(value.value, reference.value, goal)
    return (drop - goal.limit) / (abs(goal.limit) or abs(reference.value) or 1.0)


def _drop(value: float, reference: float, goal: Goal) -> float:
    return reference - value if METRICS[goal.metric].better == "higher" else value - reference


def _figures(value: Value, goal: Goal, reference: Value | None) -> str:
    unit = METRICS[goal.metric].unit
    assert value.value is not None
    figure = units.text(value.value, unit)
    if goal.kind != "max_drop":
        word = "at most" if goal.kind == "max" else "at least"
        return f"{figure}, {word} {units.text(goal.limit, unit)} asked for"
    assert reference is not None
    assert reference.value is not None
    change = units.difference(value.value - reference.value, unit)
    sign = -1 if METRICS[goal.metric].better == "higher" else 1
    allowed = units.difference(sign * goal.limit, unit)
    return f"{figure} ({change} from the dense model, allowed {allowed})"


def _reaches_across(value: Value, goal: Goal, reference: Value | None) -> bool:
    if value.low is None or value.high is None:
        return False
    limit = goal.limit
    if goal.kind == "max_drop":
        assert reference is not None
        assert reference.value is not None
        sign = -1 if METRICS[goal.metric].better == "higher" else 1
        limit = reference.value + sign * goal.limit
    return value.low < limit < value.high


def _reason(result: Result, metric: str) -> str:
    if result.failure is not None:
        return f"the candidate failed: {result.failure.message}"
    value = result.values.get(metric)
    if value is None:
        return "not recorded"
    return value.reason or f"it is {value.value}"
