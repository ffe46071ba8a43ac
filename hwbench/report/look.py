"""What every view of a study shares: order, standing, colours, and one unit per axis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hwbench import units
from hwbench.records import METRICS, Result, Source, Standing, Study, Value

# Okabe and Ito's colours, told apart with any colour vision; the yellow is too pale on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b0508c", "#c98a00", "#3d9bd6", "#7a2048", "#5b6b12")
DENSE_COLOUR = "#1f2937"
CONTROL_COLOURS = ("#8a9099", "#c2ab8e", "#6f6a62", "#b5bcc4", "#94856f")
# The same shapes as plotly and as matplotlib call them, one a backend.
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "pentagon", "hexagon")
MARKERS = ("o", "D", "s", "^", "p", "h")

_STRENGTH = (Source.MEASURED, Source.EMULATED, Source.PREDICTED, Source.PROXY, Source.STATIC)
_ORDER = {"chosen": 0, "front": 1, "dominated": 2, "missing": 3, "failed": 4}
_ACCURACIES = ("top1", "score")


@dataclass(frozen=True, slots=True)
class Axis:
    """One metric in one unit and from one kind of source, for all points on it.

    ``size`` is the SI size of one display unit. ``dropped`` counts the values of other kinds,
    which have no place on this axis.
    """

    metric: str
    size: float
    unit: str
    source: Source
    dropped: int = 0

    @property
    def title(self) -> str:
        """The axis label: ``Latency p50 (µs, measured)``."""
        kind = ", ".join(part for part in (self.unit, str(self.source)) if part)
        return f"{METRICS[self.metric].title} ({kind})"

    def place(self, result: Result) -> Value | None:
        """Return the candidate's value if it belongs on this axis."""
        value = known(result, self.metric)
        return value if value is not None and value.source is self.source else None


def known(result: Result, metric: str) -> Value | None:
    """Return a value that is there, finite, and of a candidate that did not fail."""
    value = result.values.get(metric)
    if result.failure is not None or value is None or value.value is None:
        return None
    return value if math.isfinite(value.value) else None


def number(result: Result | None, metric: str, source: Source | None = None) -> float | None:
    """Return the plain number of `known`, of that kind of source if one is given."""
    value = known(result, metric) if result is not None else None
    return None if value is None or source not in (None, value.source) else value.value


def axis(results: Sequence[Result], metric: str) -> Axis | None:
    """Return the axis for a metric in the strongest kind of source there is, or None."""
    values = [value for r in results if (value := known(r, metric)) is not None]
    kind = next((s for s in _STRENGTH if any(v.source is s for v in values)), None)
    if kind is None:
        return None
    figures = [v.value for v in values if v.source is kind and v.value is not None]
    size, unit = units.scale(statistics.median(abs(v) for v in figures), METRICS[metric].unit)
    return Axis(metric, size, unit, kind, len(values) - len(figures))


def accuracy(study: Study) -> str:
    """Return the metric of how right the models are: ``top1`` or ``score``."""
    asked = next((m for m in study.recipe.objectives if m in _ACCURACIES), None)
    found = (m for m in _ACCURACIES if any(known(r, m) for r in study.results))
    return asked or next(found, "top1")


def why_nobody(study: Study, metric: str) -> str:
    """Return why no candidate has a number for a metric, in a few words."""
    if not study.results:
        return "there are no candidates"
    alive = [r for r in study.results if r.failure is None]
    if not alive:
        return "every candidate failed"
    reasons = {r.values[metric].reason for r in alive if metric in r.values} - {""}
    return "; ".join(sorted(reasons)) or "nobody recorded it"


def standings(study: Study) -> dict[str, Standing]:
    """Return where each candidate stands, by key."""
    return {s.candidate: s for s in study.decision.standings}


def ordered(study: Study) -> list[Result]:
    """Return the candidates as people want them: chosen, front, the rest; the best first."""
    where = standings(study)
    sign = -1 if METRICS[study.recipe.choose].better == "higher" else 1

    def rank(result: Result) -> tuple[int, bool, float, str]:
        standing = where.get(result.candidate.key)
        figure = number(result, study.recipe.choose)
        return (
            _ORDER[standing.status] if standing else len(_ORDER),
            not (standing and standing.meets_goals),
            math.inf if figure is None else sign * figure,
            result.candidate.label,
        )

    return sorted(study.results, key=rank)


def find(study: Study, key: str | None) -> Result | None:
    """Return the result of a candidate by its key."""
    return next((r for r in study.results if r.candidate.key == key), None)


def dense_on(result: Result, study: Study) -> Result | None:
    """Return the dense model on the same backend: in fp32 first, its own parent first."""
    parent = result.candidate.compression.dense.key
    same = [
        r
        for r in study.results
        if r.candidate.compression.is_dense
        and r.failure is None
        and r.candidate.backend == result.candidate.backend
    ]

    def distance(result: Result) -> tuple[bool, bool]:
        candidate = result.candidate
        return candidate.export.precision != "fp32", candidate.compression.key != parent

    return min(same, key=distance, default=None)


def is_control(result: Result) -> bool:
    """Whether the candidate is in the study to be beaten: random cuts, or from scratch."""
    return result.candidate.compression.is_control


def method(result: Result) -> str:
    """Return the method's name for a legend."""
    name = result.candidate.compression.method
    return f"{name} (control)" if is_control(result) else name


def colours(study: Study) -> dict[str, str]:
    """Return a colour for every method of the study, by `method` name, in order of appearance."""
    by_method: dict[str, str] = {}
    spare = controls = 0
    for result in study.results:
        name = method(result)
        if name in by_method:
            continue
        if result.candidate.compression.is_dense:
            by_method[name] = DENSE_COLOUR
        elif is_control(result):
            by_method[name] = CONTROL_COLOURS[controls % len(CONTROL_COLOURS)]
            controls += 1
        else:
            by_method[name] = PALETTE[spare % len(PALETTE)]
            spare += 1
    return by_method


def backends(study: Study) -> dict[str, int]:
    """Return the backends of the study, each with its place in `SYMBOLS` and `MARKERS`."""
    kinds = dict.fromkeys(r.candidate.backend.kind for r in study.results)
    return {kind: place % len(SYMBOLS) for place, kind in enumerate(kinds)}


def stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the front in a plane where left (x) and up (y) are better."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not corners or y > corners[-1][1]:
            corners.append((x, y))
    return corners
