"""The table of all candidates, once for the terminal, Markdown, HTML and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hwbench.records import METRICS, Result, Standing, Study, Value
from hwbench.report import look

# What a spreadsheet would run as a formula when a label starts with it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SUFFIX = {"s": "_s", "J": "_J", "B": "_B", "fraction": "_fraction", "count": "_count", "score": ""}


def rows(
    study: Study, metrics: Sequence[str] | None = None, *, intervals: bool = False
) -> list[dict[str, str]]:
    """Return one row of formatted cells a candidate, the chosen one first.

    Columns: the candidate, its standing, whether it meets the goals, and the metrics (the
    recipe's objectives if none are named), whose headings carry unit and source. A missing number
    reads ``n/a``; a value of a weaker source than its column's carries its own label. Beside the
    latency stands the verdict on its ratio to the dense model; with `intervals` also the
    probability of being on the front.
    """
    shown = tuple(dict.fromkeys(metrics or (*study.recipe.objectives, study.recipe.choose)))
    axes = {metric: look.axis(study.results, metric) for metric in shown}
    where = look.standings(study)
    compared = any(r.beside is not None for r in study.results)
    drawn = any(s.on_front is not None for s in study.decision.standings)
    table = []
    for result in look.ordered(study):
        standing = where.get(result.candidate.key)
        row = _head(result, standing)
        if drawn and intervals:
            row["On front"] = _chance(standing)
        for metric, axis in axes.items():
            row[heading(metric, axis)] = _cell(result, metric, axis, intervals=intervals)
            if metric == "latency_p50":
                row["Speed-up"] = _speed_up(result, study)
                if compared:
                    row["Verdict"] = _verdict(result, intervals=intervals)
        table.append(row)
    return table


def present(study: Study) -> tuple[str, ...]:
    """Return the metrics that any candidate has a value or a reason for, objectives first."""
    seen = {metric for result in study.results for metric in result.values}
    order = (*study.recipe.objectives, *METRICS)
    return tuple(m for m in dict.fromkeys(order) if m in seen or m in study.recipe.objectives)


def heading(metric: str, axis: look.Axis | None) -> str:
    """Return the column's name: ``Latency p50 (µs, measured)``."""
    return axis.title if axis is not None else METRICS[metric].title


def csv(study: Study) -> str:
    """Return all numbers as CSV in SI units, one row a candidate; missing numbers are empty."""
    import pandas as pd

    where = look.standings(study)
    metrics = present(study)
    records = [
        _record(result, where.get(result.candidate.key), metrics) for result in look.ordered(study)
    ]
    columns = list(records[0]) if records else list(_columns(metrics))
    text: str = pd.DataFrame(records, columns=columns).to_csv(index=False, lineterminator="\n")
    return text


def _head(result: Result, standing: Standing | None) -> dict[str, str]:
    control = " (control)" if look.is_control(result) else ""
    goals = "" if standing is None else "met" if standing.meets_goals else "missed"
    return {
        "Candidate": result.candidate.label + control,
        "Standing": standing.status if standing else "",
        "Goals": "n/a" if result.failure is not None else goals,
    }


def _cell(result: Result, metric: str, axis: look.Axis | None, *, intervals: bool) -> str:
    value = look.known(result, metric)
    if value is None or value.value is None or axis is None:
        return "n/a"
    text = _figure(value.value, axis)
    if intervals and value.low is not None and value.high is not None and value.low < value.high:
        text += f" ({_figure(value.low, axis)}–{_figure(value.high, axis)})"
    return text if value.source is axis.source else f"{text} {value.source}"


def _figure(value: float, axis: look.Axis) -> str:
    shown = value / axis.size
    if not math.isfinite(shown):
        return str(shown)
    if METRICS[axis.metric].unit == "fraction":
        return f"{shown:.1f}"
    if shown == 0 or (abs(shown) >= 100 and axis.size == 1.0):
        return f"{shown:.0f}"
    # Three digits that count, and no exponents: 4.27, 42.7, 427, 4270.
    return f"{shown:.{max(0, 2 - math.floor(math.log10(abs(shown))))}f}"


def _speed_up(result: Result, study: Study) -> str:
    ratio = speed_up(result, study)
    return f"{ratio:.2f} ×" if ratio is not None else "n/a"


def _verdict(result: Result, *, intervals: bool) -> str:
    """Return what the ratio to the dense reference says; the reference itself says nothing."""
    if result.beside is None:
        return ""
    low, high = result.beside.low, result.beside.high
    known = intervals and low is not None and high is not None
    ends = f" ({low:.3f}–{high:.3f})" if known else ""
    return f"{result.beside.verdict}{ends}"


def _chance(standing: Standing | None) -> str:
    if standing is None or standing.on_front is None:
        return "n/a"
    return f"{standing.on_front * 100:.0f} %"


def speed_up(result: Result, study: Study) -> float | None:
    """Return the latency of the dense model on the same backend over the candidate's."""
    latency = look.known(result, "latency_p50")
    dense = look.dense_on(result, study)
    if latency is None or not latency.value:
        return None
    reference = look.number(dense, "latency_p50", latency.source)
    return reference / latency.value if reference else None


def _columns(metrics: Sequence[str]) -> dict[str, str]:
    """Return the CSV columns of the metrics: name to metric."""
    names = {}
    for metric in metrics:
        name = f"{metric}{_SUFFIX[METRICS[metric].unit]}"
        for part in ("", "_low", "_high"):
            names[f"{name}{part}"] = metric
        names[f"{metric}_source"] = metric
        names[f"{metric}_missing"] = metric
    return names


def _record(
    result: Result, standing: Standing | None, metrics: Sequence[str]
) -> dict[str, str | float | bool | None]:
    candidate = result.candidate
    spec = candidate.compression
    failure = result.failure
    record: dict[str, str | float | bool | None] = {
        "candidate": candidate.key,
        "label": candidate.label,
        "backend": candidate.backend.kind,
        "pattern": spec.pattern,
        "criterion": "" if spec.is_dense else spec.criterion,
        "scope": "" if spec.is_dense else spec.scope,
        "schedule": "" if spec.is_dense else spec.schedule,
        "seed": spec.seed,
        "sparsity_asked": spec.sparsity,
        "control": look.is_control(result),
        "status": standing.status if standing else "",
        "meets_goals": standing.meets_goals if standing else None,
        "failed_in": failure.stage if failure else "",
        "failure": failure.message if failure else "",
        "notes": "; ".join(result.notes),
        "on_front": standing.on_front if standing else None,
        "latency_ratio": result.beside.ratio if result.beside else None,
        "latency_ratio_low": result.beside.low if result.beside else None,
        "latency_ratio_high": result.beside.high if result.beside else None,
        "latency_verdict": result.beside.verdict if result.beside else "",
    }
    for metric in metrics:
        record |= _fields(metric, result.values.get(metric))
    return {key: _inert(value) for key, value in record.items()}


def _fields(metric: str, value: Value | None) -> Mapping[str, str | float | None]:
    name = f"{metric}{_SUFFIX[METRICS[metric].unit]}"
    return {
        name: value.value if value else None,
        f"{name}_low": value.low if value else None,
        f"{name}_high": value.high if value else None,
        f"{metric}_source": str(value.source) if value else "",
        f"{metric}_missing": value.reason if value else "not recorded",
    }


def _inert(value: str | float | bool | None) -> str | float | bool | None:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
