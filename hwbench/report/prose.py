"""The decision in words: for the page, for ``decision.md`` and for ``decision.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from hwbench import units
from hwbench.records import METRICS, Goal, Result, Source, Study, Value, to_json
from hwbench.report import look, table


def headline(study: Study) -> str:
    """Return the decision as a title: ``Ship channel 50 % l2 local · onnxruntime``."""
    basis = study.decision.basis
    label = f"{basis.capitalize()}: s" if basis in (Source.PREDICTED, Source.EMULATED) else "S"
    return label + _headline(study)


def _headline(study: Study) -> str:
    """Return the title without its first letter."""
    chosen = look.find(study, study.decision.chosen)
    if study.decision.verdict == "none" or chosen is None:
        return "hip none of these models"
    if study.decision.verdict == "dense":
        precision = chosen.candidate.export.precision
        words = "" if precision == "fp32" else f" in {precision}"
        return f"hip the dense model{words} on {chosen.candidate.backend.label}"
    return f"hip {chosen.candidate.label}"


def goal_words(goal: Goal) -> str:
    """Return a goal as people say it: ``Top-1 accuracy: at most 1.0 pp below the dense model``."""
    metric = METRICS[goal.metric]
    if goal.kind == "max_drop":
        side = "below" if metric.better == "higher" else "above"
        amount = units.difference(goal.limit, metric.unit).removeprefix("+")
        return f"{metric.title}: at most {amount} {side} the dense model"
    word = "at most" if goal.kind == "max" else "at least"
    return f"{metric.title}: {word} {units.text(goal.limit, metric.unit)}"


def trained(study: Study) -> str:
    """Return where the models were trained and recovered, where a GPU did it; else nothing."""
    trainings = {"trained": study.recipe.train, "recovered": study.recipe.recovery}
    if not any(train.gpu for train in trainings.values()):
        return ""
    places = (f"{what} on {train.gpu or 'the CPU'}" for what, train in trainings.items())
    return f"Models were {', '.join(places)}, by torch {study.versions.get('torch', 'unknown')}."


def figures(study: Study) -> list[tuple[str, str, str, str, str]]:
    """Return what the chosen model does beside the dense one, for the objectives and the size.

    Rows of (metric, chosen, dense, change, source); empty when nothing was chosen.
    """
    chosen, dense = look.find(study, study.decision.chosen), look.find(study, study.decision.dense)
    if chosen is None:
        return []
    metrics = dict.fromkeys((*study.recipe.objectives, study.recipe.choose, "artifact_bytes"))
    rows = []
    for metric in metrics:
        value = look.known(chosen, metric)
        dense_value = look.known(dense, metric) if dense is not None else None
        cells = (
            _text(value, chosen, metric),
            _text(dense_value, dense, metric),
            _change(value, dense_value),
        )
        source = str((value or dense_value).source) if (value or dense_value) else ""  # type: ignore[union-attr]
        rows.append((METRICS[metric].title, *cells, source))
    return rows


def test_scores(study: Study) -> list[tuple[str, str]]:
    """Return the scores on the test split, read once after the choice: (which model, score)."""
    names = {r.candidate.key: r.candidate.label for r in study.results}
    scores = study.decision.test.items()
    return [(names.get(role, role), _sourced(value)) for role, value in scores]


def _sourced(value: Value) -> str:
    """Return a value as it is said in a sentence: with its source, unless it was measured."""
    text = units.describe(value)
    return text if value.source is Source.MEASURED else f"{text} ({value.source})"


def decision_markdown(study: Study) -> str:
    """Return the decision as a page of Markdown."""
    target, recipe = study.target, study.recipe
    parts = [
        f"# {_plain(headline(study))}",
        f"{_plain(recipe.title or recipe.name)} on {_plain(target.title)} "
        f"(`{_plain(target.name)}`), {study.started}.",
        _plain(study.decision.reason),
    ]
    beside = figures(study)
    if beside:
        heads = ("", "chosen", "dense", "change", "source")
        parts.append(_table([dict(zip(heads, row, strict=True)) for row in beside]))
    scores = [f"- {_plain(role)}: {_plain(score)}" for role, score in test_scores(study)]
    if scores:
        parts.append("On the test split, read once, after the choice:\n\n" + "\n".join(scores))
    parts += [_plain(sentence) for sentence in study.decision.proxies]
    if trained(study):
        parts.append(_plain(trained(study)))
    goals = [f"- {goal_words(goal)}" for goal in recipe.goals] or ["- none"]
    parts.append("## Goals\n\n" + "\n".join(goals))
    parts.append("## Candidates\n\n" + (_table(table.rows(study)) or "None."))
    failed = [
        f"- {_plain(r.candidate.label)}, in {_plain(r.failure.stage)}: {_plain(r.failure.message)}"
        for r in look.ordered(study)
        if r.failure is not None
    ]
    if failed:
        parts.append("## What failed, and why\n\n" + "\n".join(failed))
    if study.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {_plain(note)}" for note in study.notes))
    parts.append("![accuracy against cost](pareto.png)")
    return "\n\n".join(parts) + "\n"


def decision_json(study: Study) -> str:
    """Return the decision as JSON: the record, the labels, and the figures of both models."""
    data = to_json(study.decision)
    chosen, dense = look.find(study, study.decision.chosen), look.find(study, study.decision.dense)
    data["chosen_label"] = chosen.candidate.label if chosen else None
    data["dense_label"] = dense.candidate.label if dense else None
    data["figures"] = {"chosen": _numbers(chosen), "dense": _numbers(dense)}
    return json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _numbers(result: Result | None) -> Mapping[str, Any] | None:
    if result is None:
        return None
    return {
        metric: to_json(value) | {"unit": METRICS[metric].unit}
        for metric, value in result.values.items()
    }


def _finite(data: Any) -> Any:
    """Return JSON data with null for numbers that JSON does not know."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _text(value: Value | None, result: Result | None, metric: str) -> str:
    if value is not None:
        return units.describe(value)
    if result is None:
        return "n/a"
    lost = result.values.get(metric)
    return f"n/a: {lost.reason}" if lost is not None and lost.reason else "n/a"


def _change(value: Value | None, reference: Value | None) -> str:
    if value is None or reference is None or value.source is not reference.source:
        return ""
    if value.value is None or reference.value is None:
        return ""
    metric = METRICS[value.metric]
    if metric.better == "higher" or reference.value <= 0:
        return units.difference(value.value - reference.value, metric.unit)
    return f"{(value.value / reference.value - 1) * 100:+.0f} %"


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: no table cells, tags or lines of its own."""
    flat = " ".join(text.split())
    return flat.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
