"""``pareto.png``: the trade-offs as one still picture, legible at 900 pixels wide."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwbench.records import Study
from hwbench.report import look, plane, prose

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#374151"
_GOAL = "#b42318"
_MOST = 3


def picture(study: Study) -> bytes:
    """Return a PNG of accuracy against latency, memory and energy: those that can be drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    planes = plane.trade_offs(study)
    drawn = [flat for flat in planes if flat.points][:_MOST]
    # Shown 900 pixels wide, a point of type is then 1.3 pixels high.
    figure = Figure(figsize=(9.6, 4.9), dpi=190, layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_facecolor("white")
    title = f"{study.recipe.title or study.recipe.name} · {study.target.name}"
    figure.suptitle(f"{_quiet(title)}\n{_quiet(prose.headline(study))}", fontsize=11.5, color=_INK)
    if drawn:
        row = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
        for axes, flat in zip(row, drawn, strict=True):
            _panel(axes, study, flat)
            axes.label_outer()
        _legend(figure, study)
    else:
        reasons = "\n".join(f"No {flat.title.lower()}: {flat.why}" for flat in planes)
        figure.text(0.5, 0.5, _quiet(reasons), ha="center", va="center", color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(axes: Axes, study: Study, flat: plane.Plane) -> None:
    colours, shapes, where = look.colours(study), look.backends(study), look.standings(study)
    corners = flat.front
    axes.step([x for x, _ in corners], [y for _, y in corners], where="post", **_LINE)
    for point in flat.points:
        key = point.result.candidate.key
        status = where[key].status if key in where else "missing"
        _dot(
            axes,
            point,
            colour=colours[look.method(point.result)],
            marker=look.MARKERS[shapes[point.result.candidate.backend.kind]],
            status=status,
        )
        if key in (study.decision.chosen, study.decision.dense):
            word = "chosen" if key == study.decision.chosen else "dense"
            axes.annotate(
                word,
                (point.x, point.y),
                # Above and below: the two are often neighbours, and their points crowded.
                xytext=(0, 22 if word == "chosen" else -22),
                textcoords="offset points",
                ha="center",
                va="center",
                arrowprops={"arrowstyle": "-", "color": _INK, "linewidth": 0.6},
                fontsize=9,
                fontweight="bold",
                color=_INK,
                zorder=6,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            )
    for letter, at, _ in flat.limits:
        line = axes.axhline if letter == "y" else axes.axvline
        line(at, color=_GOAL, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    _frame(axes, study, flat)


_LINE: Mapping[str, Any] = {"color": "#9ca3af", "linewidth": 1.3, "linestyle": ":", "zorder": 1}


def _dot(axes: Axes, point: plane.Point, *, colour: str, marker: str, status: str) -> None:
    star = status == "chosen"
    solid = status in ("chosen", "front")
    axes.errorbar(
        point.x,
        point.y,
        xerr=[[point.dx[0]], [point.dx[1]]] if point.dx else None,
        yerr=[[point.dy[0]], [point.dy[1]]] if point.dy else None,
        color=colour,
        elinewidth=0.8,
        alpha=0.5,
        fmt="none",
        zorder=2,
    )
    axes.plot(
        point.x,
        point.y,
        marker="*" if star else marker,
        markersize=15 if star else 6,
        markerfacecolor=colour if solid else "white",
        markeredgecolor="white" if star else colour,
        markeredgewidth=0.8 if star else 1.2,
        linestyle="none",
        zorder=5 if star else 4 if solid else 3,
    )


def _frame(axes: Axes, study: Study, flat: plane.Plane) -> None:
    axes.set_xlabel(flat.x_title, fontsize=10, color=_INK)
    axes.set_ylabel(flat.y_title, fontsize=10, color=_INK)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    floor = near_dense(study, flat)
    below = sum(point.y < floor for point in flat.points) if floor is not None else 0
    if floor is not None and below:
        axes.set_ylim(bottom=floor)
        word = "candidate lies" if below == 1 else "candidates lie"
        axes.text(
            0.985, 0.015, f"{below} {word} below", transform=axes.transAxes, fontsize=9,
            ha="right", va="bottom", color=_INK, style="italic",
        )  # fmt: skip


def near_dense(study: Study, flat: plane.Plane) -> float | None:
    """Return where to cut the accuracy axis (display units) so that the best can be told apart.

    Four times as far below the dense model as the allowed or the usual loss (2.5 % of it), or
    None when there is no dense model to cut by.
    """
    marks = (study.decision.dense, study.decision.chosen)
    heights = [p.y for p in flat.points if p.result.candidate.key in marks]
    goals = [at for letter, at, _ in flat.limits if letter == "y"]
    top = max((p.y for p in flat.points), default=0.0)
    if not heights or top <= 0:
        return None
    return min([*heights, *goals]) - 0.10 * top


def _legend(figure: Figure, study: Study) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="none", label=_quiet(name))
        for name, colour in look.colours(study).items()
    ]
    handles += [
        Line2D([], [], color=_INK, marker=look.MARKERS[place], linestyle="none", mfc="none",
               label=_quiet(kind))
        for kind, place in look.backends(study).items()
    ]  # fmt: skip
    handles.append(Line2D([], [], color=_INK, marker="o", linestyle="none", label="on the front"))
    handles.append(
        Line2D([], [], color=_INK, marker="o", mfc="white", linestyle="none", label="not on it")
    )
    if study.recipe.goals:
        handles.append(Line2D([], [], color=_GOAL, linestyle="--", linewidth=0.9, label="goal"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, fontsize=8.5, frameon=False,
        handletextpad=0.4, columnspacing=1.4,
    )  # fmt: skip


def _quiet(text: str) -> str:
    """Return text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")
