"""What the search tried, in its order: a table, and the hypervolume over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hwbench import stats, units
from hwbench.records import METRICS, Study
from hwbench.report import plane

Figure = dict[str, Any]
_COLOUR = "#0072b2"


def axes(study: Study) -> list[str]:
    """Return the titles of the objectives that the search knew of candidates."""
    return [METRICS[metric].title for metric in _metrics(study)]


def rows(study: Study) -> list[Mapping[str, Any]]:
    """Return one row a candidate tried: its label, when, its relative costs, why it was dropped."""
    metrics = _metrics(study)
    return [
        {
            "label": tried.label,
            "after": units.duration(tried.seconds),
            "costs": [f"{tried.costs[m]:.2f}" if tried.costs else "" for m in metrics],
            "dropped": tried.dropped,
        }
        for tried in study.tried
    ]


def volumes(study: Study) -> list[tuple[float, float]]:
    """Return the hypervolume known after each time (s): of the dense model first, then on."""
    metrics = _metrics(study)
    known: list[Mapping[str, float]] = [dict.fromkeys(metrics, 1.0)] if metrics else []
    steps = [(0.0, stats.ruled(known))]
    for tried in sorted(study.tried, key=lambda t: t.seconds):
        if tried.costs is not None:
            known.append(tried.costs)
            steps.append((tried.seconds, stats.ruled(known)))
    return steps


def drawn(
    study: Study, layout: Callable[[plane.Plane], Figure]
) -> tuple[plane.Plane, Figure | None]:
    """Return the plot of the hypervolume over the search's time."""
    steps = volumes(study)
    flat = plane.Plane(
        "search",
        "Search: hypervolume found over time",
        "Time of the search (s)",
        "Hypervolume (relative, untrained)",
        about="How much of the space between the dense model and twice its costs the candidates "
        "tried so far rule over, as measured untrained: training moves it, mostly up.",
        why="" if len(steps) > 1 else "no candidate that was tried has all its numbers",
    )
    if len(steps) < 2:
        return flat, None
    trace: Figure = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "hypervolume",
        "x": [x for x, _ in steps],
        "y": [y for _, y in steps],
        "line": {"shape": "hv", "width": 2, "color": _COLOUR},
        "marker": {"size": 5, "color": _COLOUR},
        "hovertemplate": "after %{x:.1f} s: %{y:.4f}<extra></extra>",
        "meta": {"method": "", "backend": ""},
    }
    return flat, {"data": [trace], "layout": layout(flat)}


def _metrics(study: Study) -> Sequence[str]:
    return next((tuple(t.costs) for t in study.tried if t.costs), ())
