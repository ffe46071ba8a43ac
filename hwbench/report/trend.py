"""A series over the nights as a small drawing: SVG for the page, PNG for everywhere else."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence

from hwbench.records import METRICS, Pair, Status, Trend, TrendPoint
from hwbench.report import look

_WIDTH, _HEIGHT = 720, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 8, 12, 26
_LOUD = {Status.WORSE: "#b42318", Status.LOST: "#b42318", Status.CREEP: "#b45309",
         Status.BETTER: "#0f6b46", Status.UNCONFIRMED: "#8a9099"}  # fmt: skip
_MOST_LINES = 8


def svg(trend: Trend) -> str:
    """Return a drawing of the ratios with their intervals; every point says its night and commit.

    Bands of grey are segments (another baseline, another device), upright lines are changes of
    the level, the dashed line is the floor.
    """
    points = [p for p in trend.points if p.ratio is not None]
    if not points:
        return ""
    low, high = _range(trend)
    place = _Place(len(trend.points), low, high)
    parts = [*_frame(place, trend), *_segments(place, trend), *_levels(place, trend)]
    parts += [_mark(place, i, p) for i, p in enumerate(trend.points) if p.ratio is not None]
    title = html.escape(f"{trend.candidate}: {METRICS[trend.metric].title}")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}, ratio to the '
        f'pinned baseline by night" class="trend">{"".join(parts)}</svg>'
    )


class _Place:
    """Where a night and a ratio lie in the drawing."""

    def __init__(self, count: int, low: float, high: float) -> None:
        self.count, self.low, self.high = count, low, high

    def x(self, index: float) -> float:
        inner = _WIDTH - _LEFT - _RIGHT
        return round(_LEFT + inner * (index + 0.5) / max(self.count, 1), 1)

    def y(self, ratio: float) -> float:
        share = (min(max(ratio, self.low), self.high) - self.low) / (self.high - self.low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _range(trend: Trend) -> tuple[float, float]:
    ratios = [1.0 - 2 * trend.floor, 1.0 + 2 * trend.floor]
    ratios += [p.ratio for p in trend.points if p.ratio is not None]
    # One wild interval must not flatten all others.
    ends = sorted(e for p in trend.points for e in (p.low, p.high) if e)
    ratios += ends[len(ends) // 20 : len(ends) - len(ends) // 20]
    pad = (max(ratios) - min(ratios)) * 0.06
    return min(ratios) - pad, max(ratios) + pad


def _frame(place: _Place, trend: Trend) -> Iterator[str]:
    for ratio, dash in ((1.0, ""), (1.0 + trend.floor, ' stroke-dasharray="4 4"')):
        y = place.y(ratio)
        yield (
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#aab2bd"{dash}/>'
        )
        if ratio > 1.0 and place.y(1.0) - y < 20:
            continue  # the two labels would lie on each other
        text = "baseline" if ratio == 1.0 else f"{(ratio - 1) * 100:+.0f} %"
        yield f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>'
    for ratio in (place.low, place.high):
        y = place.y(ratio)
        if min(abs(y - place.y(r)) for r in (1.0, 1.0 + trend.floor)) > 20:
            text = f"{(ratio - 1) * 100:+.0f} %"
            yield f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>'
    for index in sorted({0, len(trend.points) - 1}):
        anchor = "start" if index == 0 else "end"
        point = trend.points[index]
        text = f"night {point.number}, {point.started[:10]}"
        if index == 0 and place.count == 1:
            anchor = "middle"
        yield (f'<text x="{place.x(index)}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{text}</text>')


def _segments(place: _Place, trend: Trend) -> Iterator[str]:
    """Draw a wash under every other segment, and one line where each begins."""
    begins = [
        i for i, p in enumerate(trend.points) if i and p.segment != trend.points[i - 1].segment
    ]
    ends = [*begins, len(trend.points)]
    for number, (start, end) in enumerate(zip([0, *begins], ends, strict=True)):
        if number % 2:
            x, width = place.x(start - 0.5), place.x(end - 0.5) - place.x(start - 0.5)
            height = _HEIGHT - _TOP - _BOTTOM
            yield (
                f'<rect x="{x}" y="{_TOP}" width="{width:.1f}" height="{height}" '
                f'fill="#e9ecf0"><title>a new segment: another baseline or device</title></rect>'
            )
    for index in trend.changes:
        x = place.x(index - 0.5)
        yield (
            f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#b45309" '
            f'stroke-width="2"><title>the level changed here</title></line>'
        )


def _levels(place: _Place, trend: Trend) -> Iterator[str]:
    """Draw the line through the points, broken between segments."""
    run: list[str] = []
    before = ""
    for index, point in enumerate(trend.points):
        if point.ratio is None:
            continue
        if run and point.segment != before:
            yield f'<polyline points="{" ".join(run)}" fill="none" stroke="#3d6f9e"/>'
            run = []
        before = point.segment
        run.append(f"{place.x(index)},{place.y(point.ratio)}")
    yield f'<polyline points="{" ".join(run)}" fill="none" stroke="#3d6f9e"/>'


def _mark(place: _Place, index: int, point: TrendPoint) -> str:
    assert point.ratio is not None
    x, y = place.x(index), place.y(point.ratio)
    colour = _LOUD.get(point.status, "#0b5cad")
    radius = 4.5 if point.status in _LOUD else 2.6
    words = f"night {point.number}, {point.started[:16]}, commit {point.commit or 'unknown'}: "
    words += f"{(point.ratio - 1) * 100:+.2f} %"
    bar = ""
    if point.low and point.high:
        words += f" ({(point.low - 1) * 100:+.2f} to {(point.high - 1) * 100:+.2f} %)"
        bar = (
            f'<line x1="{x}" x2="{x}" y1="{place.y(point.low)}" y2="{place.y(point.high)}" '
            f'stroke="{colour}" stroke-opacity=".45"/>'
        )
    words += f", {point.status.value}"
    return (
        f'<g>{bar}<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>'
        f"<title>{html.escape(words)}</title></g>"
    )


def png(pair: Pair, trends: Sequence[Trend]) -> bytes:
    """Return the latency of a pair's candidates over the nights as a picture, loud ones first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    loud = {r.candidate for r in pair.readings if r.alarm}
    drawn = [t for t in trends if t.metric == "latency_p50"] or list(trends)
    drawn.sort(key=lambda t: (t.candidate not in loud, t.candidate))
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1.0, color="#aab2bd", linewidth=1)
    for place, trend in enumerate(drawn[:_MOST_LINES]):
        there = [p for p in trend.points if p.ratio is not None]
        numbers = [p.number for p in there]
        ratios = [p.ratio for p in there if p.ratio is not None]
        colour = look.PALETTE[place % len(look.PALETTE)]
        axes.plot(numbers, ratios, marker=".", color=colour, label=trend.candidate, linewidth=1)
        bounds = [(n, p.low, p.high) for n, p in zip(numbers, there, strict=True)]
        whole = [(n, low, high) for n, low, high in bounds if low and high]
        if trend.candidate in loud and whole:
            xs, lows, highs = zip(*whole, strict=True)
            axes.fill_between(xs, lows, highs, color=colour, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{(v - 1) * 100:+.1f} %"))
    axes.set_xlabel("night")
    axes.set_ylabel(f"{METRICS[drawn[0].metric].title}, to baseline")
    more = f" ({_MOST_LINES} of {len(drawn)} candidates)" if len(drawn) > _MOST_LINES else ""
    axes.set_title(f"{pair.recipe} on {pair.target}{more}", fontsize=10, loc="left")
    axes.legend(fontsize=6, frameon=False, loc="upper left", ncols=2)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
