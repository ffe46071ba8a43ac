"""What the command line shows: progress, tables, decisions, complaints."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from hwbench import report, studies, units
from hwbench.errors import HwbenchError
from hwbench.records import Source, Study
from hwbench.studies import PHASES

# A log or a pipe has no width of its own; tables are wide.
err = Console(stderr=True)
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140)

_TITLES = {
    "search": "try candidates untrained",
    "prepare": "prune, fine-tune, compile",
    "measure": "measure on the target",
    "score": "score the answers",
    "confirm": "confirm the choice",
    "repeat": "repeat with other seeds",
    "report": "write the report",
}
_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""


def complain(error: HwbenchError) -> None:
    """Print an error: where and what, then what was expected and how to mend it."""
    where = f"[bold]{escape(error.where)}[/]: " if error.where else ""
    err.print(f"[red]error[/] {where}{escape(error.what)}", soft_wrap=True)
    for name, text in (("expected", error.expected), ("mend", error.mend)):
        if text:
            err.print(f"  [dim]{name}:[/] {escape(text)}", soft_wrap=True)


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[studies.Progress]:
    """Yield what to call with progress: bars on a terminal, now and then a line elsewhere."""
    if quiet:
        yield lambda phase, share, label: None
    elif err.is_terminal:
        with _bars() as show:
            yield show
    else:
        yield _Lines()


@contextlib.contextmanager
def _bars() -> Iterator[studies.Progress]:
    columns = (
        TextColumn("{task.description:26}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[label]}"),
    )
    # Drawn twice a second and no oftener: it runs beside what is being timed.
    with Progress(*columns, console=err, refresh_per_second=2) as bars:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, share: float, label: str) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(_TITLES[phase], total=1.0, label=label)
            bars.update(tasks[phase], completed=share, label=label)

        yield show


class _Lines:
    """Progress as lines, for logs: one when a phase begins, then one every ten seconds."""

    def __init__(self) -> None:
        self._phase = ""
        self._began = self._said = time.monotonic()

    def __call__(self, phase: str, share: float, label: str) -> None:
        now = time.monotonic()
        if phase == self._phase and now - self._said < _EVERY:
            return
        if phase != self._phase:
            self._phase, self._began = phase, now
        self._said = now
        spent = now - self._began
        # The first second of a phase says nothing about the rest.
        told = share > 0.02 and spent > 1
        left = f", about {units.duration(spent / share - spent)} left" if told else ""
        number = PHASES.index(phase) + 1
        line = f"[{number}/{len(PHASES)}] {_TITLES[phase]}: {share:.0%}{left}  {label}"
        print(line.rstrip(), file=sys.stderr, flush=True)


def table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows as a table, with a column for each key of the first."""
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, key in enumerate(rows[0] if rows else ()):
        shown.add_column(key, overflow="fold", ratio=None if index else 1)
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row.values()))
    out.print(shown)


def decision(study: Study) -> None:
    """Print what was measured and what to ship."""
    table(f"{study.recipe.title} on {study.target.title}", report.rows(study))
    for result in study.results:
        if result.failure is not None:
            why = f"{result.failure.stage}: {result.failure.message}"
            out.print(f"failed: {result.candidate.label}: {why}", style="red", markup=False)
    basis = study.decision.basis
    label = "" if basis is Source.MEASURED else f" ({basis})"
    panel(f"Decision{label}", study.decision.reason)
    for note in study.notes:
        out.print(f"note: {note}", style="dim", markup=False)


def panel(title: str, text: str) -> None:
    """Print a framed text."""
    out.print(Panel(escape(text), title=escape(title), title_align="left"))
