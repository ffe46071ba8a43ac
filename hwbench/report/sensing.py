"""How much each layer can lose alone: its curve, and all of them as a heat map."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from hwbench.records import METRICS, LayerCurve, Sensitivity, Study
from hwbench.report import look, plane

Figure = dict[str, Any]
Layout = Callable[[plane.Plane], Figure]
_LOSSES = [[0, "#fffaf3"], [0.35, "#f5b971"], [1, "#8f2f0b"]]
_READABLE = 24
"""Rows up to which a cell has room for its figure."""
_NOBODY = {"method": "", "backend": ""}
_ABOUT = (
    "Every layer was pruned alone, batch-norm statistics were estimated again, nothing was "
    "trained; scored on the validation split, on the host."
)


def drawn(study: Study, layout: Layout) -> list[tuple[plane.Plane, Figure | None]]:
    """Return a heat map and the curves for each pattern and criterion that was tried."""
    found: list[tuple[plane.Plane, Figure | None]] = []
    for place, one in enumerate(study.sensitivity):
        found += [_heat(study, one, place, layout), _lines(study, one, place, layout)]
    return found


def _heat(study: Study, one: Sensitivity, place: int, layout: Layout) -> tuple[plane.Plane, Figure]:
    size, unit = _scale(study)
    title = METRICS[look.accuracy(study)].title.lower()
    flat = plane.Plane(
        f"sensitivity-{place}",
        f"What each layer loses alone: {_name(one)}",
        "Share of the layer removed",
        "",
        about=f"{_ABOUT} Figures: change of the {title}, {unit}.",
        rem=max(25.0, 8 + 1.1 * len(one.curves)),
    )
    losses = [[(curve.score - score) * size for score in curve.scores] for curve in one.curves]
    words = [[f"{round(-loss, 1) + 0.0:+.1f}" for loss in row] for row in losses]
    trace: Figure = {
        "type": "heatmap",
        "x": [f"{share:.0%}" for share in one.curves[0].sparsities],
        "y": [_safe(curve.layer) for curve in one.curves],
        "z": losses,
        "zmin": 0,
        "zmax": max(1.0, *(max(row) for row in losses)),
        "text": words,
        "texttemplate": "%{text}" if len(one.curves) <= _READABLE else "",
        "colorscale": _LOSSES,
        "colorbar": {"title": {"text": f"lost ({unit})", "side": "right"}, "thickness": 12},
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": f"%{{y}}, %{{x}} removed: %{{text}} {unit}<extra></extra>",
        "meta": _NOBODY,
    }
    shape = layout(flat)
    shape["xaxis"] |= {"type": "category"}
    # The first layer stands on top, as in the model.
    shape["yaxis"] |= {"type": "category", "autorange": "reversed", "dtick": 1}
    return flat, {"data": [trace], "layout": shape}


def _lines(
    study: Study, one: Sensitivity, place: int, layout: Layout
) -> tuple[plane.Plane, Figure]:
    size, _ = _scale(study)
    title = METRICS[look.accuracy(study)].title
    flat = plane.Plane(
        f"curves-{place}",
        f"Layer by layer: {_name(one)}",
        "Share of the layer removed (%)",
        f"{title} ({'%, ' if size > 1 else ''}host, untrained)",
        about=f"{_ABOUT} Dotted: the dense model.",
    )
    dense = one.curves[0].score * size
    level: Figure = {
        "type": "scatter",
        "mode": "lines",
        "name": "dense",
        "x": [0, 100],
        "y": [dense, dense],
        "line": {"width": 1.5, "dash": "dot", "color": look.DENSE_COLOUR},
        "hoverinfo": "skip",
        "meta": _NOBODY,
    }
    traces = [_line(curve, size, index) for index, curve in enumerate(one.curves)]
    shape = layout(flat) | {"showlegend": True, "legend": {"font": {"size": 11}}}
    return flat, {"data": [level, *traces], "layout": shape}


def _line(curve: LayerCurve, size: float, index: int) -> Figure:
    dashes = ("solid", "dot", "dash", "dashdot")
    colours = look.PALETTE
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": _safe(curve.layer),
        "x": [0, *(share * 100 for share in curve.sparsities)],
        "y": [score * size for score in (curve.score, *curve.scores)],
        "line": {
            "width": 1.5,
            "color": colours[index % len(colours)],
            "dash": dashes[index // len(colours) % len(dashes)],
        },
        "marker": {"size": 5},
        "hovertemplate": "%{fullData.name}, %{x:.0f} % removed: %{y:.1f}<extra></extra>",
        "meta": _NOBODY,
    }


def _safe(name: str) -> str:
    """Return a layer's name as plotly may show it: it reads a little HTML."""
    return html.escape(name, quote=False)


def _name(one: Sensitivity) -> str:
    return f"{one.spec.pattern} {one.spec.criterion}"


def _scale(study: Study) -> tuple[float, str]:
    """Return the size of a display unit of accuracy in reverse, and its name."""
    return (100.0, "pp") if METRICS[look.accuracy(study)].unit == "fraction" else (1.0, "points")
