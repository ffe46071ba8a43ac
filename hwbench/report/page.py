"""``report.html``: one file with everything in it, from a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from typing import Any

from hwbench import units
from hwbench.records import METRICS, Result, Source, Study
from hwbench.report import (
    history,
    look,
    picture,
    plane,
    plots,
    prose,
    roofline,
    shifting,
    table,
)

_ABOUT = {
    "Speed-up": "latency of the dense model on the same backend over this one's",
    "Verdict": "latency over the reference's (99 % interval), corrected for all comparisons; "
    "within 2 % counts as equivalent",
    "On front": "probability of being on the Pareto front, bootstrap over the generations",
}
Cells = Sequence[tuple[str, str]]


def page(study: Study) -> str:
    """Return the report as one HTML page that needs no other file and no network."""
    import jinja2
    from plotly.offline import get_plotlyjs

    loader = jinja2.PackageLoader("hwbench.report", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    here = resources("hwbench.report")
    return environment.get_template("page.html").render(
        style=(here / "page.css").read_text(),
        script=(here / "page.js").read_text(),
        plotly=get_plotlyjs(),
        study=study,
        **_summary(study),
        **_pictures(study),
        **_details(study),
    )


def _summary(study: Study) -> Mapping[str, Any]:
    """Return what is read first: the verdict, its figures, and what they rest on."""
    return {
        "title": study.recipe.title or study.recipe.name,
        "headline": prose.headline(study),
        "figures": prose.figures(study),
        "tests": prose.test_scores(study),
        "proxies": study.decision.proxies,
        "bars": "the bands of the predictions, common to all; predicted times less than 25\xa0% "
        "apart are ties"
        if study.decision.basis is Source.PREDICTED
        else "95\xa0% intervals",
        "counts": _counts(study),
        "goals": _goals(study),
    }


def _pictures(study: Study) -> Mapping[str, Any]:
    """Return the drawings, their data for the script, and the legend that all share."""
    drawings, roofs = plots.figures(study), plots.rooflines(study)
    return {
        "legend": _legend(study),
        "drawings": [_drawing(study, flat, drawn is not None) for flat, drawn in drawings],
        "roofs": [_drawing(study, flat, True) for flat, _ in roofs],
        "roof_tables": roofline.tables(study),
        "roofless": roofline.missing(study),
        "data": {flat.name: drawn for flat, drawn in [*drawings, *roofs] if drawn is not None},
    }


def _details(study: Study) -> Mapping[str, Any]:
    """Return all tables: candidates, search, shift, failures, layers, training, conditions."""
    ordered = look.ordered(study)
    return {
        "tried": history.rows(study),
        "axes": history.axes(study),
        "shift": shifting.rows(study),
        "potentials": shifting.potentials(study),
        "guideline": shifting.guideline(study),
        "table": _table(study),
        "failed": [r for r in ordered if r.failure is not None],
        "gaps": _gaps(study),
        "layers": _layers(study),
        "remarks": [(r.candidate.label, r.notes) for r in ordered if r.notes],
        "trained": prose.trained(study),
        "rings": _rings(study),
        "seconds": [(name, units.duration(took)) for name, took in study.seconds.items()],
    }


def _counts(study: Study) -> str:
    total = len(study.results)
    failed = sum(r.failure is not None for r in study.results)
    members = sum(s.status in ("front", "chosen") for s in study.decision.standings)
    met = sum(s.meets_goals for s in study.decision.standings)
    word = "candidate" if total == 1 else "candidates"
    return f"{total} {word}, {failed} failed, {members} on the front, {met} met every goal"


def _legend(study: Study) -> Mapping[str, Any]:
    shapes = {kind: look.SYMBOLS[place] for kind, place in look.backends(study).items()}
    return {"methods": look.colours(study), "backends": shapes}


def _drawing(study: Study, flat: plane.Plane, drawn: bool) -> Mapping[str, Any]:
    near = picture.near_dense(study, flat) if flat.limits or flat.front else None
    hidden = near is not None and any(p.y < near for p in flat.points)
    return {
        "name": flat.name,
        "title": flat.title,
        "about": flat.about,
        "drawn": drawn,
        "why": flat.why,
        "left_out": flat.left_out,
        "count": len(flat.points),
        "total": len(study.results),
        "near": near if hidden else None,
        "high": f"{flat.rem:g}rem" if flat.rem > 25 else "",
    }


def _goals(study: Study) -> list[tuple[str, str]]:
    if not study.recipe.goals:
        return []
    met = sum(s.meets_goals for s in study.decision.standings)
    words = [(goal.label, prose.goal_words(goal)) for goal in study.recipe.goals]
    return [*words, ("together", f"{met} of {len(study.results)} candidates met every goal")]


def _table(study: Study) -> Mapping[str, Any]:
    """Return the headings and rows of the big table, with the plain numbers to sort by."""
    metrics = table.present(study)
    rows = table.rows(study, metrics, intervals=True)
    axes = {table.heading(m, look.axis(study.results, m)): m for m in metrics}
    heads = list(rows[0]) if rows else []
    where = look.standings(study)
    body = []
    for result, row in zip(look.ordered(study), rows, strict=True):
        standing = where.get(result.candidate.key)
        cells = [_cell(study, result, head, row[head], axes) for head in heads]
        reasons = standing.reasons if standing else ()
        status = standing.status if standing else ""
        body.append({"key": result.candidate.key, "cells": cells, "why": reasons, "status": status})
    return {"heads": [_head(head, axes.get(head)) for head in heads], "rows": body}


def _head(head: str, metric: str | None) -> Mapping[str, str]:
    if metric is None:
        return {"name": head, "unit": "", "about": _ABOUT.get(head, "")}
    title = METRICS[metric].title
    unit = head.removeprefix(title).strip(" ()")
    better = METRICS[metric].better
    return {"name": title, "unit": unit, "about": f"{METRICS[metric].about}; {better} is better"}


def _cell(
    study: Study, result: Result, head: str, text: str, axes: Mapping[str, str]
) -> Mapping[str, Any]:
    metric = axes.get(head)
    if metric is None:
        sort = table.speed_up(result, study) if head == "Speed-up" else text
        return _written(text, sort, numeric=head == "Speed-up")
    value = result.values.get(metric)
    about = "" if value is None else "; ".join(p for p in (value.reason, value.note) if p)
    figure, _, interval = text.partition(" (")
    number = look.number(result, metric)
    return _written(figure, number, numeric=True, interval=interval.rstrip(")"), about=about)


def _written(
    text: str, sort: str | float | None, *, numeric: bool, interval: str = "", about: str = ""
) -> Mapping[str, Any]:
    return {
        "text": text,
        "sort": "" if sort is None else sort,
        "numeric": numeric,
        "interval": interval,
        "about": about,
    }


def _gaps(study: Study) -> list[tuple[str, str, str]]:
    """Return what is missing although its candidate ran: (metric, reason, which candidates)."""
    gaps: dict[tuple[str, str], list[str]] = {}
    for result in look.ordered(study):
        for metric in table.present(study):
            value = result.values.get(metric)
            if result.failure is None and (value is None or value.value is None):
                reason = value.reason if value is not None else "not recorded"
                gaps.setdefault((metric, reason), []).append(result.candidate.label)
    alive = sum(r.failure is None for r in study.results)
    return [
        (METRICS[metric].title, reason, "all" if len(labels) == alive else ", ".join(labels))
        for (metric, reason), labels in gaps.items()
    ]


def _layers(study: Study) -> list[tuple[str, str, str, str]]:
    """Return what each backend makes of zeros: (backend, patterns, layers, why)."""
    samples: dict[tuple[str, str], Result] = {}
    for result in study.results:
        if result.layers:
            key = (result.candidate.backend.kind, result.candidate.compression.pattern)
            samples.setdefault(key, result)
    patterns: dict[tuple[str, str, str], list[str]] = {}
    for (backend, pattern), result in samples.items():
        able = sum(note.eligible for note in result.layers)
        whys: dict[str, int] = {}
        for note in result.layers:
            whys[note.why] = whys.get(note.why, 0) + 1
        summary = "; ".join(f"{why} ({count} layers)" for why, count in whys.items())
        share = f"{able} of {len(result.layers)}"
        patterns.setdefault((backend, share, summary), []).append(pattern)
    return [(backend, ", ".join(names), n, why) for (backend, n, why), names in patterns.items()]


def _rings(study: Study) -> list[tuple[str, Cells]]:
    """Return the conditions, ring by ring, as (name, value) pairs; software versions besides."""
    rings: list[tuple[str, Cells]] = []
    if study.conditions is not None:
        for name in ("identity", "software", "state"):
            rings.append((f"Device: {name}", _flat(getattr(study.conditions, name))))
    rings.append(("Host: software", _flat(study.versions)))
    return rings


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            pairs.append((f"{prefix}{name}", ", ".join(str(v) for v in value)))
        else:
            pairs.append((f"{prefix}{name}", "n/a" if value is None else str(value)))
    return pairs
