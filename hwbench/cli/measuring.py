"""The verbs about measuring itself: doctor, compare, selftest."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape

from hwbench import config, units
from hwbench.cli import screen
from hwbench.errors import Exit
from hwbench.measure import doctor as doctors
from hwbench.measure import selftest as selftests

app = typer.Typer()

Target = Annotated[str, typer.Argument(help="a file in targets/, or a path to one")]
TargetName = Annotated[
    str, typer.Option("--target", "-t", help="a file in targets/, or a path to one")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_EVERY = 10.0
"""Seconds between lines of progress: what redraws itself would disturb what is timed."""


@app.command()
def doctor(target: Target = "local-cpu", as_json: AsJson = False) -> int:
    """Check whether a target is fit to measure on, and how small an effect it can tell.

    Exit 0: it is (warnings included). 3: it cannot be used; each line says how to mend it.
    """
    health = doctors.examine(config.load_target(target), _progress(as_json))
    if as_json:
        print(json.dumps(doctors.to_json(health), indent=2))
    else:
        for check in health.checks:
            _line(check)
        screen.panel("Doctor", _prognosis(health))
    return Exit.FINE if health.usable else Exit.TARGET


@app.command()
def selftest(
    target: TargetName = "local-cpu",
    full: Annotated[
        bool, typer.Option("--full", help="312 A/A pairs and power curves: half an hour")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Put known truths through the measuring protocol on a target, and say what it makes of them.

    Exit 0: every question was answered as it should be. 1: one was not.
    """
    rows = list(selftests.run(config.load_target(target), full, _progress(as_json)))
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
