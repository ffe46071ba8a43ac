"""A night for people and for machines: page, Markdown, JUnit XML, pictures, and the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from hwbench import files, units
from hwbench.records import (
    METRICS,
    Change,
    Night,
    Pair,
    Reading,
    ShadowRate,
    Status,
    Trend,
)
from hwbench.report import trend as drawing

if TYPE_CHECKING:
    import jinja2

_MOST_LINES = 12
"""Alarms that a chat message lists; the page has them all."""


def write(
    night: Night, trends: Sequence[Trend], shadow: ShadowRate, problems: Sequence[str], folder: Path
) -> tuple[Path, ...]:
    """Write ``report.html``, ``summary.md``, ``junit.xml`` and the trends as PNG; return them."""
    contents: dict[str, str | bytes] = {
        "summary.md": summary(night),
        "junit.xml": junit(night),
        "report.html": page(night, trends, shadow, problems),
    }
    for pair in night.pairs:
        drawn = [t for t in trends if (t.target, t.recipe) == (pair.target, pair.recipe)]
        if drawn:
            contents[f"trend-{pair.target}-{pair.recipe}.png"] = drawing.png(pair, drawn)
    for name, content in contents.items():
        files.write(folder / name, content)
    return tuple(folder / name for name in contents)


def verdict(night: Night) -> str:
    """Return ``red``, ``unmeasured`` or ``green``."""
    if night.alarms:
        return "red"
    return "unmeasured" if night.unmeasured else "green"


def headline(night: Night) -> str:
    """Return the verdict as a sentence: how many alarms, where; what could not be measured."""
    lost = len(night.unmeasured)
    rest = f"; {_many(lost, 'pair')} could not be measured" if lost else ""
    if night.alarms:
        places = {f"{p.recipe} on {p.target}" for p, _ in night.alarms}
        where = ", ".join(sorted(places)[:3])
        return f"{_many(len(night.alarms), 'alarm')}: {where}{rest}"
    if lost == len(night.pairs):
        return "Could not measure"
    watched = sum(len(p.readings) for p in night.pairs)
    return f"Nothing got worse: {_many(watched, 'series', 'series')} watched{rest}"


def sentence(pair: Pair, reading: Reading) -> str:
    """Return an alarm in one line: target, recipe, candidate, metric, size, intervals."""
    what = f"{pair.target}, {pair.recipe}: {reading.candidate}: {METRICS[reading.metric].title}"
    if reading.status is Status.CREEP:
        return f"{what} creeps: {reading.reason}"
    if reading.status is Status.LOST:
        return f"{what} is lost: {reading.reason or 'there is no number tonight'}"
    both = [size(reading.metric, reading.first)]
    if reading.again is not None:
        both.append(size(reading.metric, reading.again))
    return f"{what} {', confirmed '.join(both)}{_levels(reading)}"


def size(metric: str, change: Change) -> str:
    """Return a change in words: ``+5.1 % (+4.2 to +6.0 %)``, ``-3.1 pp (p = 0.0004)``."""
    if METRICS[metric].better == "higher":
        if change.before is None or change.now is None:
            return "n/a"
        moved = units.difference(change.now - change.before, METRICS[metric].unit)
        return moved if change.chance is None else f"{moved} (p = {change.chance:.2g})"
    if change.ratio is None:
        return "n/a"
    text = f"{(change.ratio - 1) * 100:+.1f} %"
    if change.low and change.high:
        text += f" ({(change.low - 1) * 100:+.1f} to {(change.high - 1) * 100:+.1f} %)"
    return text


def summary(night: Night) -> str:
    """Return the night in Markdown, short enough for a chat message or a comment."""
    lines = [f"### hwbench, night {night.number}: {_escaped(headline(night))}", ""]
    alarms = [sentence(p, r) for p, r in night.alarms]
    lines += [f"- **worse** {_escaped(words)}" for words in alarms[:_MOST_LINES]]
    if len(alarms) > _MOST_LINES:
        lines.append(f"- and {len(alarms) - _MOST_LINES} more, see the report")
    for pair in night.pairs:
        where = f"{pair.recipe} on {pair.target}"
        if not pair.measured:
            mend = f" (mend: {_escaped(pair.mend)})" if pair.mend else ""
            lines.append(f"- **could not measure** {_escaped(where)}: {_escaped(pair.why)}{mend}")
        lines += [f"- blame: {_escaped(hint)}" for hint in pair.hints[:3]]
        lines += [f"- {_escaped(where)}: {_escaped(event)}" for event in pair.events]
        if pair.alarms and pair.changed:
            lines.append(f"- changed since the baseline: {_escaped('; '.join(pair.changed[:4]))}")
    lines += [f"- {_escaped(event)}" for event in night.events]
    better = [(p, r) for p in night.pairs for r in p.readings if r.status is Status.BETTER]
    if better:
        lines.append(f"- better: {_many(len(better), 'series', 'series')}; to keep it: promote")
    lines += ["", f"commit `{night.commit or 'unknown'}`, {night.started}, {night.host}"]
    return "\n".join(lines) + "\n"


def junit(night: Night) -> str:
    """Return the night as JUnit XML: a suite a pair, a case a series, errors where unmeasured."""
    root = ElementTree.Element("testsuites", name=f"hwbench night {night.number}")
    for pair in night.pairs:
        name = f"{pair.recipe} on {pair.target}"
        readings = pair.readings if pair.measured else ()
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=name,
            timestamp=night.started,
            tests=str(len(readings) or 1),
            failures=str(len(pair.alarms) if pair.measured else 0),
            errors="0" if pair.measured else "1",
            time=f"{pair.seconds:.1f}",
        )
        if not pair.measured:
            case = ElementTree.SubElement(suite, "testcase", name="measure", classname=name)
            error = ElementTree.SubElement(case, "error", message=f"could not measure: {pair.why}")
            error.text = pair.mend
        for reading in readings:
            label = f"{reading.candidate}: {reading.metric}"
            case = ElementTree.SubElement(suite, "testcase", name=label, classname=name)
            if reading.alarm:
                words = sentence(pair, reading)
                failure = ElementTree.SubElement(case, "failure", message=words)
                failure.text = "\n".join((*pair.hints, *pair.changed))
            elif reading.status is Status.MISSING:
                ElementTree.SubElement(case, "skipped", message=reading.reason)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


# --------------------------------------------------------------------------------------------
# pages


def page(night: Night, trends: Sequence[Trend], shadow: ShadowRate, problems: Sequence[str]) -> str:
    """Return the night as one HTML page that needs no other file and no network."""
    drawn = {
        (p.target, p.recipe): [
            (t, drawing.svg(t)) for t in trends if (t.target, t.recipe) == (p.target, p.recipe)
        ]
        for p in night.pairs
    }
    return _template("night.html").render(
        style=_style(),
        night=night,
        verdict=verdict(night),
        headline=headline(night),
        alarms=[(p, r, sentence(p, r)) for p, r in night.alarms],
        pairs=[(p, drawn[p.target, p.recipe]) for p in night.pairs],
        devices=list(dict.fromkeys(p.target for p in night.pairs)),
        methods=_methods(night),
        shadow=shadow,
        problems=problems,
        size=size,
        metrics=METRICS,
    )


def line(night: Night) -> dict[str, Any]:
    """Return a night's line of the index."""
    return {
        "number": night.number,
        "started": night.started,
        "commit": night.commit,
        "verdict": verdict(night),
        "headline": headline(night),
        "events": list(night.events),
    }


def index(lines: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return the page over all nights, the newest first, from (folder, `line`) of each."""
    rows = sorted(lines, key=lambda row: row[1]["number"], reverse=True)
    return _template("nights.html").render(style=_style(), rows=rows)


def _methods(night: Night) -> list[tuple[str, str, list[tuple[str, Pair | None, object]]]]:
    """Return the rows of the method x device table: (recipe, method, a cell a device)."""
    devices = list(dict.fromkeys(p.target for p in night.pairs))
    rows = []
    for recipe in dict.fromkeys(p.recipe for p in night.pairs):
        by_target = {p.target: p for p in night.pairs if p.recipe == recipe}
        names = dict.fromkeys(m.method for p in by_target.values() for m in p.methods)
        for name in names:
            cells: list[tuple[str, Pair | None, object]] = []
            for device in devices:
                pair = by_target.get(device)
                measured = pair.methods if pair is not None else ()
                cells.append((device, pair, next((m for m in measured if m.method == name), None)))
            rows.append((recipe, name, cells))
    return rows


def _template(name: str) -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hwbench.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _style() -> str:
    from importlib.resources import files as resources

    here = resources("hwbench.report")
    return (here / "page.css").read_text() + (here / "night.css").read_text()


def _levels(reading: Reading) -> str:
    before, now = reading.first.before, reading.first.now
    if before is None or now is None:
        return ""
    unit = METRICS[reading.metric].unit
    return f": {units.text(before, unit)} became {units.text(now, unit)}"


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _escaped(text: str) -> str:
    flat = " ".join(text.split())
    return flat.replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
