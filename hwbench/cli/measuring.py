"""The verbs about measuring: measure, compare, doctor, selftest."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hwbench import config, studies, units
from hwbench.cli import screen
from hwbench.cli.options import AsJson, Host, Target, TargetName
from hwbench.errors import Exit, UserError
from hwbench.instruments import nights
from hwbench.instruments import selftest as selftests
from hwbench.measurement import doctor as doctors
from hwbench.measurement.compared import Row
from hwbench.records import METRICS, Source, Value, to_json

app = typer.Typer()

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_EVERY = 10.0
"""Seconds between lines of progress: what redraws itself would disturb what is timed."""


@app.command()
def doctor(target: Target = "local-cpu", host: Host = "", as_json: AsJson = False) -> int:
    """Check whether a target is fit to measure on, and how small an effect it can tell.

    Exit 0: it is (warnings included). 3: it cannot be used; each line says how to mend it.
    """
    health = doctors.examine(config.load_target(target, host), _progress(as_json))
    if as_json:
        print(json.dumps(doctors.to_json(health), indent=2))
    else:
        for check in health.checks:
            _line(check)
        screen.panel("Doctor", _prognosis(health))
    return Exit.FINE if health.usable else Exit.TARGET


@app.command()
def selftest(
    what: Annotated[
        str, typer.Argument(help="device: the measuring itself; nightly: simulated nights")
    ] = "device",
    target: TargetName = "local-cpu",
    host: Host = "",
    full: Annotated[
        bool,
        typer.Option("--full", help="312 A/A pairs, power curves, 30 at once: 20 minutes"),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Put known truths through the measuring protocol on a target, and say what it makes of them.

    With "nightly" the truths are nights of a simulated device (steps, creep, drift, outliers, slow
    modes, another kernel), judged as real nights are; no target is needed.


    Exit 0: every question was answered as it should be. 1: one was not.
    """
    if what == "nightly":
        size = nights.FULL if full else nights.SMALL
        rows = [selftests.Row(*_fields(bar)) for bar in nights.bars(size, _progress(as_json))]
    elif what == "device":
        rows = list(selftests.run(config.load_target(target, host), full, _progress(as_json)))
    else:
        raise UserError(f"there is no selftest of {what!r}", mend="device, or nightly")
    if as_json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        screen.table(
            "selftest",
            [
                {
                    "question": row.question,
                    "tries": str(row.tries),
                    "found": row.found,
                    "wanted": row.wanted,
                    "": {True: "ok", False: "no", None: ""}[row.ok],
                    "took": units.duration(row.seconds) if row.seconds else "",
                }
                for row in rows
            ],
        )
    return Exit.MISSED if selftests.failed(rows) else Exit.FINE


@app.command()
def measure(
    models: Annotated[list[Path], typer.Argument(help="ONNX files, runs' folders or their model/")],
    target: TargetName = "local-cpu",
    host: Host = "",
    backends: Annotated[
        list[str] | None,
        typer.Option(
            "--backend", help="run them with it; repeatable; the target's first if absent"
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="quick, standard or publish")] = "quick",
    max_time: Annotated[float, typer.Option(help="seconds to measure, at most")] = studies.SECONDS,
    as_json: AsJson = False,
) -> int:
    """Measure finished models on a target: latency, memory, energy. Within a minute.

    Models that take the same input are measured in turn, and held against the first.

    Exit 0: all were measured. 1: one could not be. 2: a mistake in what you wrote. 3: the device
    cannot be used, or could not tell a model from its own copy.
    """
    profile = config.load_target(target, host)
    spec = config.policy(policy, profile.measure, max_time)
    costs = studies.measure(models, profile, spec, backends=backends or (), show=_progress(as_json))
    if as_json:
        print(json.dumps(to_json(costs), indent=2))
    else:
        _show_costs(costs)
    if not costs.valid:
        return Exit.TARGET
    return Exit.FINE if costs.measured else Exit.MISSED


_SHOWN = ("latency_p50", "latency_p90", "peak_memory", "energy", "artifact_bytes")


def _show_costs(costs: studies.ModelCosts) -> None:
    done = [model for model in costs.models if model.failure is None]
    if done:
        screen.table(f"on {costs.target}", [_cost_row(model) for model in done])
    for model in costs.models:
        if model.failure is not None:
            at = f" with {model.backend}" if model.backend else ""
            screen.panel(f"{model.file} cannot be measured{at}", model.failure.message)
            if model.failure.detail:
                screen.out.print(escape(model.failure.detail), soft_wrap=True)
    for note in costs.notes:
        screen.out.print(f"note: {escape(note)}", soft_wrap=True)
    if not costs.valid:
        screen.panel("Not to be believed", "a model and its own copy came out different")


def _cost_row(model: studies.ModelCost) -> dict[str, str]:
    latency = next((row for row in model.beside if row.metric == "latency_p50"), None)
    beside = ""
    if latency is not None and latency.ratio is not None:
        interval = (
            f" ({latency.low:.3f} to {latency.high:.3f})" if latency.low and latency.high else ""
        )
        beside = f"{latency.ratio:.3f}{interval}"
    figures = {
        METRICS[m].title + _source(model.values[m]): units.describe(model.values[m])
        for m in _SHOWN
        if m in model.values
    }
    return {
        "model": model.file,
        "backend": model.backend,
        **figures,
        "latency over the first's (99 %)": beside,
    }


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="an ONNX file, a run's folder or its model/")],
    b: Annotated[Path, typer.Argument(help="what is held against it")],
    target: TargetName = "local-cpu",
    host: Host = "",
    backend: Annotated[
        str | None, typer.Option(help="compile both for it; the target's first if absent")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="a share: less is no difference")
    ] = 0.02,
    on: Annotated[
        list[str] | None, typer.Option("--on", help="a metric in which B may not be worse")
    ] = None,
    policy: Annotated[str, typer.Option(help="quick, standard or publish")] = "standard",
    max_time: Annotated[float | None, typer.Option(help="seconds to measure, at most")] = None,
    as_json: AsJson = False,
) -> int:
    """Measure two models in turn on a target, and say in what B differs from A.

    Exit 0: B is nowhere worse beyond the margin (or nobody can tell). 1: it is, or it cannot be
    measured. 2: A cannot be measured, or the two do not take the same input. 3: the device
    cannot be used, or could not tell A from its own copy.
    """
    wrong = [metric for metric in on or () if metric not in METRICS]
    if wrong:
        raise UserError(f"unknown metric {wrong[0]!r}", where="--on", mend=", ".join(METRICS))
    profile = config.load_target(target, host)
    spec = config.policy(policy, profile.measure, max_time)
    found = studies.compare(
        a, b, profile, spec, backend=backend, margin=margin, on=on or studies.ON,
        show=_progress(as_json),
    )  # fmt: skip
    if as_json:
        print(json.dumps(to_json(found), indent=2))
    else:
        _show_comparison(found)
    if found.failure is None and not found.valid:
        return Exit.TARGET
    return Exit.FINE if found.passed else Exit.MISSED


def _fields(bar: nights.Bar) -> tuple[str, int, str, str, bool]:
    return bar.question, bar.tries, bar.found, bar.wanted, bar.ok


def _show_comparison(found: studies.Comparison) -> None:
    if found.failure is not None:
        screen.panel(f"{found.b} cannot be measured", found.failure.message)
        if found.failure.detail:
            screen.out.print(escape(found.failure.detail), soft_wrap=True)
        return
    title = f"B = {found.b} beside A = {found.a}, on {found.target} with {found.backend}"
    screen.table(title, [_row(row) for row in found.rows])
    for note in found.notes:
        screen.out.print(f"note: {escape(note)}", soft_wrap=True)
    titles = ", ".join(METRICS[m].title for m in found.worse)
    said = f"B is worse beyond {found.margin:.0%} in: {titles}." if titles else (
        f"B is nowhere worse beyond {found.margin:.0%} for sure."
    )  # fmt: skip
    if not found.valid:
        said = f"Not to be believed: A and its own copy came out different. {said}"
    screen.panel("Comparison", said)


def _row(row: Row) -> dict[str, str]:
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    interval = f"{row.low:.3f} to {row.high:.3f}" if row.low and row.high else ""
    return {
        "metric": METRICS[row.metric].title + _source(row.b),
        "A": units.describe(row.a),
        "B": units.describe(row.b),
        "B / A": ratio,
        "99 % interval": interval,
        "verdict": _said(row),
        "detectable": "" if row.detectable is None else f"{row.detectable:.1%}",
    }


def _said(row: Row) -> str:
    """Return the verdict in words that suit the metric: bytes are not faster."""
    sizes = {"faster": "SMALLER", "slower": "LARGER"} if METRICS[row.metric].unit == "B" else {}
    return sizes.get(row.verdict, row.verdict.upper()) or row.reason


def _source(value: Value) -> str:
    kind = value.tier or ("" if value.source is Source.MEASURED else value.source.value)
    return f" ({kind})" if kind else ""


def _line(check: doctors.Check) -> None:
    colour = _COLOURS[check.grade]
    text = f"[{colour}]{check.grade:4}[/] [bold]{escape(check.name)}[/]  {escape(check.found)}"
    screen.out.print(text, soft_wrap=True, highlight=False)
    if check.mend:
        screen.out.print(f"     [dim]mend:[/] {escape(check.mend)}", soft_wrap=True)


def _progress(quiet: bool) -> Callable[[float, str], None]:
    """Return what prints a line now and then on standard error."""
    said = 0.0

    def show(_share: float, label: str) -> None:
        nonlocal said
        now = time.monotonic()
        if not quiet and now - said >= _EVERY:
            said = now
            print(label, file=sys.stderr, flush=True)

    return show


def _prognosis(health: doctors.Health) -> str:
    if health.detectable is None:
        return f"{health.target} cannot be measured on as it is."
    words = "fit to measure on" if health.usable else "not fit to measure on"
    return (
        f"{health.target} is {words}. The smallest effect that a session of 20 seconds a pair "
        f"finds here now, 9 times of 10 at the 99 % level: {health.detectable:.1%}."
    )
