"""The interactive plots, as plain data for plotly.js."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from hwbench import units
from hwbench.records import METRICS, Result, Study
from hwbench.report import history, look, plane, roofline, sensing, table

Figure = dict[str, Any]
_GRID = "#e5e7eb"
_INK = "#374151"
_GOAL = "#b42318"


def figures(study: Study) -> list[tuple[plane.Plane, Figure | None]]:
    """Return every plot of the page with its data, None where there is nothing to draw."""
    drawn: list[tuple[plane.Plane, Figure | None]] = []
    for flat in plane.trade_offs(study):
        drawn.append((flat, _trade_off(study, flat) if flat.points else None))
    lines = plane.against_sparsity(study)
    drawn.append((lines, _sparsity(study, lines) if lines.points else None))
    gains = plane.promised(study)
    drawn.append((gains, _promised(study, gains) if gains.points else None))
    if study.tried:
        drawn.append(history.drawn(study, _layout))
    return drawn + sensing.drawn(study, _layout)


def rooflines(study: Study) -> list[tuple[plane.Plane, Figure]]:
    """Return the plots of layers, which have a section of their own."""
    return roofline.drawn(study, _layout)


def hover(result: Result, study: Study) -> str:
    """Return everything about a point, as the lines of its hover box (escaped for plotly)."""
    spec = result.candidate.compression
    backend = result.candidate.backend
    standing = look.standings(study).get(result.candidate.key)
    lines = [f"<b>{_safe(result.candidate.label)}</b>"]
    if standing is not None:
        goals = "meets the goals" if standing.meets_goals else "misses a goal"
        lines.append(_safe(f"{standing.status}, {goals}"))
    control = " (a control)" if look.is_control(result) else ""
    if not spec.is_dense:
        lines.append(
            _safe(
                f"pattern {spec.pattern}, criterion {spec.criterion}{control}, scope {spec.scope},"
                f" sparsity {spec.sparsity:g}"
            )
        )
        recovery = f"{spec.recovery.epochs} epochs" if spec.recovery else "none"
        lines.append(_safe(f"schedule {spec.schedule}, {spec.steps} steps, fine-tuning {recovery}"))
    options = ", ".join(f"{k}={v}" for k, v in backend.options.items())
    lines.append(_safe(f"backend {backend.kind}{f' ({options})' if options else ''}"))
    lines.append(
        _safe(
            f"{result.candidate.export.precision}, batch {result.candidate.batch},"
            f" threads {result.candidate.threads}, seed {spec.seed}"
        )
    )
    lines += [_safe(line) for line in _numbers(result, study)]
    if result.measured_at:
        lines.append(_safe(f"{result.measured_at} on {study.target.name}"))
    return "<br>".join(lines)


def _numbers(result: Result, study: Study) -> list[str]:
    lines = []
    for metric in dict.fromkeys((*study.recipe.objectives, "planned_memory", "artifact_bytes")):
        value = result.values.get(metric)
        if value is None or (value.value is None and metric == "planned_memory"):
            continue
        line = f"{METRICS[metric].title}: {units.describe(value)}"
        if value.low is not None and value.high is not None:
            unit = METRICS[metric].unit
            line += f" ({units.text(value.low, unit)} to {units.text(value.high, unit)})"
        lines.append(f"{line} [{value.source}]" if value.value is not None else line)
    gone, gain = plane.removed(result, study), table.speed_up(result, study)
    if gone is not None:
        lines.append(f"weights gone: {gone * 100:.1f} % [static]")
    if gain is not None:
        lines.append(f"speed-up: {gain:.2f} × against dense on {result.candidate.backend.label}")
    return lines


def _safe(text: str) -> str:
    return html.escape(text, quote=False)


def _groups(study: Study, flat: plane.Plane) -> Mapping[tuple[str, str], list[plane.Point]]:
    """Return the points by (method, backend), in the order of the study."""
    groups: dict[tuple[str, str], list[plane.Point]] = {
        (look.method(r), r.candidate.backend.kind): [] for r in study.results
    }
    for point in flat.points:
        groups[look.method(point.result), point.result.candidate.backend.kind].append(point)
    return {key: points for key, points in groups.items() if points}


def _traces(study: Study, flat: plane.Plane, *, lines: bool = False) -> list[Figure]:
    colours, shapes = look.colours(study), look.backends(study)
    traces = []
    for (method, backend), group in _groups(study, flat).items():
        points = sorted(group, key=lambda p: p.x) if lines else group
        trace: Figure = {
            "type": "scatter",
            "mode": "lines+markers" if lines else "markers",
            "name": _safe(f"{method} · {backend}"),
            "x": [p.x for p in points],
            "y": [p.y for p in points],
            "text": [hover(p.result, study) for p in points],
            "customdata": [p.result.candidate.key for p in points],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": _markers(study, points, colours[method], look.SYMBOLS[shapes[backend]]),
            "line": {"width": 1.5, "color": colours[method], "dash": _dash(shapes[backend])},
            "meta": {"method": method, "backend": backend},
        }
        for name, reaches in (
            ("error_x", [p.dx for p in points]),
            ("error_y", [p.dy for p in points]),
        ):
            if any(reaches):
                trace[name] = _bars(reaches, colours[method])
        traces.append(trace)
    return traces


def _markers(
    study: Study, points: Sequence[plane.Point], colour: str, shape: str
) -> Mapping[str, Any]:
    where = look.standings(study)
    states = [
        where[p.result.candidate.key].status if p.result.candidate.key in where else "missing"
        for p in points
    ]
    best = [state == "chosen" for state in states]
    full = [state in ("chosen", "front") for state in states]
    return {
        "color": [colour if solid else "#fff" for solid in full],
        "symbol": ["star" if star else shape for star in best],
        "size": [20 if star else 10 for star in best],
        "line": {"width": [1 if star else 2 for star in best], "color": colour},
        "opacity": 1,
    }


def _bars(reaches: Sequence[tuple[float, float] | None], colour: str) -> Mapping[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [r[1] if r else 0 for r in reaches],
        "arrayminus": [r[0] if r else 0 for r in reaches],
        "color": colour,
        "thickness": 1,
        "width": 0,
    }


def _dash(place: int) -> str:
    return ("solid", "dot", "dash", "dashdot")[place % 4]


def _trade_off(study: Study, flat: plane.Plane) -> Figure:
    steps: Figure = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [x for x, _ in flat.front],
        "y": [y for _, y in flat.front],
        "line": {"shape": "hv", "width": 1.5, "color": "#9ca3af", "dash": "dot"},
        "hoverinfo": "skip",
        "meta": {"method": "", "backend": ""},
    }
    layout = _layout(flat)
    layout["annotations"] = _notes(study, flat)
    layout["shapes"] = [_line(letter, at) for letter, at, _ in flat.limits]
    for letter, at, says in flat.limits:
        layout["annotations"].append(_limit_note(letter, at, says))
    return {"data": [steps, *_traces(study, flat)], "layout": layout}


def _sparsity(study: Study, flat: plane.Plane) -> Figure:
    return {"data": _traces(study, flat, lines=True), "layout": _layout(flat)}


def _promised(study: Study, flat: plane.Plane) -> Figure:
    layout = _layout(flat)
    most = max(max(p.x, p.y) for p in flat.points)
    ideal: Figure = {
        "type": "scatter",
        "mode": "lines",
        "name": "ideal",
        "x": [1, most],
        "y": [1, most],
        "line": {"width": 1.5, "color": "#9ca3af", "dash": "dot"},
        "hoverinfo": "skip",
        "meta": {"method": "", "backend": ""},
    }
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if t < most * 2]
    for letter in ("xaxis", "yaxis"):
        layout[letter] |= {
            "type": "log",
            "tickvals": ticks,
            "ticktext": [f"{t:g}×" for t in ticks],
            "rangemode": "normal",
        }
    layout["shapes"] = [_line("y", 1.0)]
    note = _limit_note("y", 0.0, "no faster than dense")  # a logarithm: 0 is 1×
    layout["annotations"] = [note | {"x": 1, "xanchor": "right", "yshift": -7}]
    return {"data": [ideal, *_traces(study, flat)], "layout": layout}


def _notes(study: Study, flat: plane.Plane) -> list[Figure]:
    """Return the words beside the chosen and the dense point."""
    named = {study.decision.dense: "dense", study.decision.chosen: "chosen"}
    return [
        {
            "x": p.x,
            "y": p.y,
            "text": f"<b>{named[p.result.candidate.key]}</b>",
            "showarrow": False,
            "yshift": 18,
            "font": {"size": 12, "color": _INK},
            "bgcolor": "rgba(255,255,255,.75)",
        }
        for p in flat.points
        if p.result.candidate.key in named
    ]


def _line(letter: str, at: float) -> Figure:
    other = "x" if letter == "y" else "y"
    return {
        "type": "line",
        f"{letter}0": at,
        f"{letter}1": at,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": "paper",
        "line": {"color": _GOAL, "width": 1, "dash": "dash"},
        "layer": "below",
    }


def _limit_note(letter: str, at: float, says: str) -> Figure:
    note: Figure = {
        "text": says,
        "showarrow": False,
        "font": {"size": 11, "color": _GOAL},
        "bgcolor": "rgba(255,255,255,.75)",
    }
    if letter == "y":
        return note | {"xref": "paper", "x": 0.005, "xanchor": "left", "y": at, "yanchor": "top"}
    return note | {"yref": "paper", "y": 1, "yanchor": "top", "x": at, "xanchor": "left"}


def _layout(flat: plane.Plane) -> Figure:
    side: Figure = {
        "gridcolor": _GRID,
        "linecolor": "#9ca3af",
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#9ca3af",
        "automargin": True,
    }
    return {
        "xaxis": side | {"title": {"text": flat.x_title, "standoff": 10}},
        "yaxis": side | {"title": {"text": flat.y_title, "standoff": 6}},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": _INK},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "margin": {"l": 60, "r": 16, "t": 30, "b": 56},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {
            "align": "left",
            "bgcolor": "#fff",
            "bordercolor": "#9ca3af",
            "font": {"color": _INK, "family": "system-ui, sans-serif", "size": 12},
        },
    }
