"""How close each layer comes to what the device can do: a picture and a table an artifact."""

from __future__ import annotations

import html
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench import units
from hwbench.records import LayerTime, Result, Roofline, Study
from hwbench.report import look, plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figure = dict[str, Any]
Layout = Callable[[plane.Plane], Figure]
_MOST = 4
"""Artifacts that are shown; the figures of all are among the results."""
_NAMED = 6
_ROOF = "#6b7280"
_INK = "#374151"
Spot = tuple[float, float]
Box = tuple[float, float, float, float]
_NOBODY = {"method": "", "backend": ""}
_ROOM, _NARROW, _STILL = (430, 280), (225, 165), (440, 385)
"""A plot's inside in pixels on a desk, on a phone and on the still picture: room for names."""
_ABOUT = (
    "A dot a layer, as large as its share of the time; alike layers share a number with the table "
    "below. Operations are those that the kernel really multiplies, bytes the least that must move "
    "(weights as they are stored, what comes in, what goes out). Lines: a copy and a large matrix "
    "product, both measured on the device."
)


@dataclass(frozen=True, slots=True)
class Alike:
    """Layers of one shape and kernel: one number, one name in the picture."""

    number: int
    layers: tuple[LayerTime, ...]

    @property
    def label(self) -> str:
        """Its number, the first layer's name, how many there are, and their kernel."""
        first = self.layers[0]
        count = f" ×{len(self.layers)}" if len(self.layers) > 1 else ""
        return f"{self.number} {first.name}{count} · {first.kernel}"


def shown(study: Study) -> list[tuple[Result, Roofline]]:
    """Return the artifacts to show: the best, the dense one on its backend, then the next best."""
    layered = [
        (r, r.roofline) for r in look.ordered(study) if r.roofline is not None and r.roofline.layers
    ]
    if not layered:
        return []
    # The best comes first: the chosen one, unless its runtime does not tell its layers apart.
    best = layered[0][0]
    dense = look.dense_on(best, study)
    first = [best.candidate.key, dense.candidate.key if dense else ""]
    rest = len(first)
    layered.sort(key=lambda pair: first.index(k) if (k := pair[0].candidate.key) in first else rest)
    return layered[:_MOST]


def alike(roofline: Roofline) -> list[Alike]:
    """Return the layers in groups of one shape and kernel, what takes most time first."""
    same: dict[tuple[Any, ...], list[LayerTime]] = {}
    for layer in roofline.layers:
        key = (layer.kernel, layer.format, layer.operations, layer.multiplied, layer.nbytes)
        same.setdefault(key, []).append(layer)
    groups = sorted(same.values(), key=lambda g: -sum(layer.seconds for layer in g))
    return [Alike(number, tuple(group)) for number, group in enumerate(groups, 1)]


def missing(study: Study) -> list[tuple[str, str]]:
    """Return why artifacts have no layers although they were asked for: (reason, which)."""
    labels: dict[str, list[str]] = {}
    for result in look.ordered(study):
        if result.roofline is not None and result.roofline.reason:
            labels.setdefault(result.roofline.reason, []).append(result.candidate.label)
    return [(reason, ", ".join(which)) for reason, which in labels.items()]


# --------------------------------------------------------------------------------------------
# the tables


def tables(study: Study) -> list[Mapping[str, Any]]:
    """Return for each artifact shown its name, how it was measured, and a row a layer."""
    return [
        {"label": result.candidate.label, "how": _how(roofline), "rows": _rows(roofline)}
        for result, roofline in shown(study)
    ]


def _how(roofline: Roofline) -> str:
    rates = ", ".join(f"{kind} {_rate(rate)}" for kind, rate in sorted(roofline.rates.items()))
    whole, layers = roofline.seconds, sum(layer.seconds for layer in roofline.layers)
    return (
        f"Copy {units.text(roofline.bandwidth, 'B')}/s; matrix product {rates}. One inference "
        f"{units.text(whole, 's')}, its layers alone {units.text(layers, 's')} "
        f"({layers / whole:.0%}); by {roofline.how}."
    )


def _rows(roofline: Roofline) -> list[Mapping[str, str]]:
    return [
        {
            "#": str(group.number),
            "Layer": layer.name,
            "Time": units.text(layer.seconds, "s"),
            "Share": f"{roofline.share(layer):.1%}",
            "Of its roof": f"{roofline.fraction(layer):.0%}",
            "Under": roofline.bound(layer),
            "As if dense": _rate(layer.operations / layer.seconds),
            "Kernel": f"{layer.kernel} ({layer.format})",
            "Why": layer.why,
        }
        for group in alike(roofline)
        for layer in sorted(group.layers, key=lambda layer: -layer.seconds)
    ]


def _rate(value: float) -> str:
    size, name = units.scale(value, "count")
    return f"{value / size:.3g} {name}op/s"


# --------------------------------------------------------------------------------------------
# the page's picture


def drawn(study: Study, layout: Layout) -> list[tuple[plane.Plane, Figure]]:
    """Return a plot for each artifact that is shown."""
    plots = []
    for place, (result, roofline) in enumerate(shown(study)):
        flat = plane.Plane(
            f"roofline-{place}",
            result.candidate.label,
            "Operations per byte",
            "Operations per second",
            about=_ABOUT if place == 0 else "",
        )
        plots.append((flat, _figure(roofline, layout(flat))))
    return plots


def _figure(roofline: Roofline, shape: Figure) -> Figure:
    groups, field = alike(roofline), _Field.around(roofline)
    shape["xaxis"] |= _axis(field.x, "")
    shape["yaxis"] |= _axis(field.y, "op/s")
    shape |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}}
    words = _ceilings(roofline, field)
    shape["annotations"] = words + _names(named(roofline, groups, field, _ROOM))
    # Where it is narrow, page.js takes these: numbers, which the table below explains.
    numbers = named(roofline, groups, field, _NARROW, lambda group: str(group.number))
    shape["meta"] = {"narrow": words + _names(numbers)}
    return {"data": [*_roofs(roofline, field), *_dots(roofline, groups)], "layout": shape}


@dataclass(frozen=True, slots=True)
class _Field:
    """The part of the plane that is drawn, both axes as logarithms."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, roofline: Roofline) -> _Field:
        spots = [_spot(layer) for layer in roofline.layers]
        ridges = [rate / roofline.bandwidth for rate in roofline.rates.values()]
        xs, ys = [*(x for x, _ in spots), *ridges], [y for _, y in spots]
        top = max([*roofline.rates.values(), *ys])
        return cls(
            (math.log10(min(xs) / 3), math.log10(max(xs) * 4)),
            (math.log10(min(ys) / 4), math.log10(top * 4)),
        )

    def place(self, spot: Spot, room: tuple[int, int]) -> Spot:
        """Return where a spot lies, in pixels from the lower left corner."""
        (x0, x1), (y0, y1) = self.x, self.y
        x, y = math.log10(spot[0]), math.log10(spot[1])
        return (x - x0) / (x1 - x0) * room[0], (y - y0) / (y1 - y0) * room[1]


def _spot(layer: LayerTime) -> Spot:
    """Return a layer's operations per byte, and per second."""
    return layer.multiplied / layer.nbytes, layer.multiplied / layer.seconds


def _axis(ends: tuple[float, float], unit: str) -> Figure:
    ticks = range(math.ceil(ends[0]), math.floor(ends[1]) + 1)
    step = max(1, math.ceil(len(ticks) / 6))
    shown_ = [t for t in ticks if t % step == 0]
    return {
        "type": "log",
        "range": list(ends),
        "tickvals": [10.0**t for t in shown_],
        "ticktext": [_tick(10.0**t, unit) for t in shown_],
    }


def _tick(value: float, unit: str) -> str:
    if not unit:
        return f"{value:g}"
    size, name = units.scale(value, "count")
    return f"{value / size:g} {name}{unit}"


def _roofs(roofline: Roofline, field: _Field) -> list[Figure]:
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"roof, {kind}",
            "showlegend": False,
            "x": [x for x, _ in corners],
            "y": [y for _, y in corners],
            "line": {"width": 1.8, "color": _ROOF},
            "hoverinfo": "skip",
            "meta": _NOBODY,
        }
        for kind, corners in _corners(roofline, field)
    ]


def _corners(roofline: Roofline, field: _Field) -> list[tuple[str, list[Spot]]]:
    """Return each roof by its number format: up along the copy, then level."""
    low, high = (10.0**end for end in field.x)
    roofs = []
    for kind, rate in sorted(roofline.rates.items()):
        ridge = rate / roofline.bandwidth
        roofs.append((kind, [(low, low * roofline.bandwidth), (ridge, rate), (high, rate)]))
    return roofs


def _ceilings(roofline: Roofline, field: _Field) -> list[Figure]:
    """Return the words on the lines."""
    plain = {"showarrow": False, "font": {"size": 11, "color": _ROOF}}
    notes: list[Figure] = [
        {**plain, "x": field.x[1], "y": math.log10(rate), "xanchor": "right", "yshift": 9,
         "text": html.escape(f"{kind} {_rate(rate)}")}
        for kind, rate in roofline.rates.items()
    ]  # fmt: skip
    x, y = _slope(roofline, field)
    notes.append(
        {**plain, "x": math.log10(x), "y": math.log10(y), "xanchor": "right", "xshift": -8,
         "text": f"copy {units.text(roofline.bandwidth, 'B')}/s"}
    )  # fmt: skip
    return notes


def _slope(roofline: Roofline, field: _Field) -> Spot:
    """Return where on the rising line its words go: high up, where there is room beside it."""
    ridge = min(roofline.rates.values()) / roofline.bandwidth
    x = 10 ** (field.x[0] + 0.85 * (math.log10(ridge) - field.x[0]))
    return x, x * roofline.bandwidth


def _dots(roofline: Roofline, groups: Sequence[Alike]) -> list[Figure]:
    numbers = {id(layer): group.number for group in groups for layer in group.layers}
    traces = []
    for kernel, colour in _colours(roofline).items():
        layers = [layer for layer in roofline.layers if layer.kernel == kernel]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": html.escape(kernel, quote=False),
                "x": [_spot(layer)[0] for layer in layers],
                "y": [_spot(layer)[1] for layer in layers],
                "text": [_hover(roofline, layer, numbers[id(layer)]) for layer in layers],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {
                    "color": colour,
                    "opacity": 0.75,
                    "size": [_size(roofline, layer) for layer in layers],
                    "line": {"width": 1, "color": "#fff"},
                },
                "meta": _NOBODY,
            }
        )
    return traces


def _size(roofline: Roofline, layer: LayerTime) -> float:
    return 7 + 16 * math.sqrt(min(roofline.share(layer), 1.0))


def _colours(roofline: Roofline) -> dict[str, str]:
    """Return a colour for every kernel, dense first."""
    kernels = dict.fromkeys(layer.kernel for layer in roofline.layers)
    others = [kernel for kernel in kernels if kernel != "dense"]
    spare = {kernel: look.PALETTE[i % len(look.PALETTE)] for i, kernel in enumerate(others)}
    return {"dense": look.DENSE_COLOUR, **spare} if "dense" in kernels else spare


def _hover(roofline: Roofline, layer: LayerTime, number: int) -> str:
    lines = (
        f"{number} {layer.name}: {layer.kernel}, {layer.format}",
        f"{units.text(layer.seconds, 's')}, {roofline.share(layer):.1%} of the inference",
        f"{roofline.fraction(layer):.0%} of its roof, under {roofline.bound(layer)}",
        f"{_rate(layer.multiplied / layer.seconds)}, as if dense "
        f"{_rate(layer.operations / layer.seconds)}",
        f"{units.text(layer.nbytes, 'B')} at least",
    )
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def _along(roofline: Roofline, field: _Field) -> list[Spot]:
    """Return spots along the roofs, a dozen pixels apart at most: no name may hide them."""
    spots = []
    for _, corners in _corners(roofline, field):
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            steps = [step / 40 for step in range(41)]
            spots += [(x0 * (x1 / x0) ** step, y0 * (y1 / y0) ** step) for step in steps]
    return spots


def _names(placed: Sequence[Named]) -> list[Figure]:
    return [
        {
            "x": math.log10(name.spot[0]),
            "y": math.log10(name.spot[1]),
            "text": html.escape(name.text, quote=False),
            "ax": name.off[0],
            "ay": -name.off[1],
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 0.8,
            "arrowcolor": _ROOF,
            "font": {"size": 11, "color": _INK},
            "bgcolor": "rgba(255,255,255,.8)",
        }
        for name in placed
    ]


@dataclass(frozen=True, slots=True)
class Named:
    """A name in the picture: its words, the dot it is about, how far off it stands (pixels)."""

    text: str
    spot: Spot
    off: tuple[int, int]


def named(
    roofline: Roofline,
    groups: Sequence[Alike],
    field: _Field,
    room: tuple[int, int],
    words: Callable[[Alike], str] = lambda group: group.label,
) -> list[Named]:
    """Return the names of what takes most time, where there is room for them.

    Names lie over neither one another, the dots of others, the roofs nor their words; one without
    room is left out.
    """
    spots = [(g, field.place(_spot(layer), room)) for g in groups for layer in g.layers]
    lines = [field.place(spot, room) for spot in _along(roofline, field)]
    taken = _words(roofline, field, room)
    placed = []
    for group in groups[:_NAMED]:
        middle = sorted(group.layers, key=lambda layer: layer.seconds)[len(group.layers) // 2]
        x, y = field.place(_spot(middle), room)
        text = words(group)
        wide, high = 6.2 * len(text) + 8, 17.0
        blocked = [at for other, at in spots if other is not group] + lines
        for dx, dy in _offsets(wide):
            box = (x + dx - wide / 2, y + dy - high / 2, x + dx + wide / 2, y + dy + high / 2)
            inside = box[0] >= 0 and box[2] <= room[0] and box[1] >= 0 and box[3] <= room[1]
            free = not any(_meet(box, other) for other in taken)
            if inside and free and not any(_holds(box, at) for at in blocked):
                taken.append(box)
                placed.append(Named(text, _spot(middle), (round(dx), round(dy))))
                break
    return placed


def _words(roofline: Roofline, field: _Field, room: tuple[int, int]) -> list[Box]:
    """Return what the words on the roofs cover."""
    x, y = field.place(_slope(roofline, field), room)
    boxes = [(x - 112, y - 9, x - 6, y + 9)]
    for rate in roofline.rates.values():
        _, level = field.place((10.0 ** field.x[1], rate), room)
        boxes.append((room[0] - 112, level, room[0], level + 20))
    return boxes


def _offsets(wide: float) -> list[Spot]:
    """Return where a name may stand beside its dot, the nearest first: below a roof, not on it."""
    side = wide / 2 + 14
    near = [(0.0, -24.0), (side, -8.0), (-side, -8.0), (side, 8.0), (0.0, 24.0)]
    far = [
        (sign * part * wide, -float(down))
        for down in (44, 64, 88, 116)
        for part in (0.0, 0.5, 0.8)
        for sign in (1, -1)
    ]
    return near + far


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _holds(box: Box, at: Spot) -> bool:
    return box[0] - 6 < at[0] < box[2] + 6 and box[1] - 6 < at[1] < box[3] + 6


# --------------------------------------------------------------------------------------------
# the still picture


def picture(study: Study) -> bytes | None:
    """Return a PNG of the best and its dense model's layers; None: nobody has any."""
    results = shown(study)[:2]
    if not results:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9.6, 4.6), dpi=190, layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.set_facecolor("white")
    title = f"Layers under the roofs of {study.target.title}"
    canvas.suptitle(_quiet(title), fontsize=11.5, color=_INK)
    row = canvas.subplots(1, len(results), squeeze=False)[0]
    for axes, (result, roofline) in zip(row, results, strict=True):
        _panel(axes, result, roofline)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(axes: Axes, result: Result, roofline: Roofline) -> None:
    field = _Field.around(roofline)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*(10.0**end for end in field.x))
    axes.set_ylim(*(10.0**end for end in field.y))
    for _, corners in _corners(roofline, field):
        axes.plot(*zip(*corners, strict=True), color=_ROOF, linewidth=1.4, zorder=1)
    _lines_words(axes, roofline, field)
    for kernel, colour in _colours(roofline).items():
        layers = [layer for layer in roofline.layers if layer.kernel == kernel]
        spots = [_spot(layer) for layer in layers]
        axes.scatter(
            [x for x, _ in spots],
            [y for _, y in spots],
            s=[(_size(roofline, layer) * 0.75) ** 2 for layer in layers],
            color=colour,
            alpha=0.75,
            edgecolors="white",
            linewidths=0.6,
            label=_quiet(kernel),
            zorder=3,
        )
    for name in named(roofline, alike(roofline), field, _STILL):
        axes.annotate(
            _quiet(name.text), name.spot, textcoords="offset points",
            xytext=(name.off[0] * 0.7, name.off[1] * 0.7),
            ha="center", va="center", fontsize=7, color=_INK, zorder=4,
            arrowprops={"arrowstyle": "-", "color": _ROOF, "linewidth": 0.5},
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )  # fmt: skip
    axes.set_title(_quiet(result.candidate.label), fontsize=9.5, color=_INK)
    axes.set_xlabel("Operations per byte", fontsize=9.5, color=_INK)
    axes.set_ylabel("Operations per second", fontsize=9.5, color=_INK)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _lines_words(axes: Axes, roofline: Roofline, field: _Field) -> None:
    right = 10.0 ** field.x[1]
    for kind, rate in roofline.rates.items():
        axes.text(right, rate * 1.15, f"{kind} {_rate(rate)}", fontsize=7.5, color=_ROOF,
                  ha="right", va="bottom")  # fmt: skip
    x, y = _slope(roofline, field)
    axes.annotate(
        f"copy {units.text(roofline.bandwidth, 'B')}/s", (x, y), xytext=(-5, 3),
        textcoords="offset points", fontsize=7.5, color=_ROOF, ha="right", va="bottom",
    )  # fmt: skip


def _quiet(text: str) -> str:
    """Return text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")
