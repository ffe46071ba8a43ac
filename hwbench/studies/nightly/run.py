"""A whole night: every entry of the plan, the history, the report. What was done is never lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import files, store
from hwbench.errors import Exit, HwbenchError, TargetError, UserError
from hwbench.pipeline.keys import toolchain
from hwbench.pipeline.session import Progress, Workspace
from hwbench.records import (
    Night,
    NightlyPlan,
    Pair,
    Recipe,
    TargetProfile,
    from_json,
    to_json,
)
from hwbench.report import night as night_report
from hwbench.studies.nightly import baseline, history
from hwbench.studies.nightly.entry import run_entry
from hwbench.studies.nightly.history import History
from hwbench.studies.nightly.trends import shadow_rate, trends

_HEAD, _LINE, _DONE = "night.json", "line.json", "decision.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a night leaves: its record, its folder, and what of the history could not be read."""

    night: Night
    folder: Path
    written: tuple[Path, ...]
    problems: tuple[str, ...]
    resumed: bool

    @property
    def exit_code(self) -> Exit:
        """1 with an alarm, else 3 if something could not be measured, else 0."""
        if self.night.alarms:
            return Exit.MISSED
        return Exit.TARGET if self.night.unmeasured else Exit.FINE


def run(
    plan: NightlyPlan,
    recipes: Sequence[Recipe],
    targets: Sequence[TargetProfile],
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    """Hold every recipe on every target against its baseline; write history and report.

    Interrupted, the same command goes on the same day; a later night first puts what the
    interrupted one had finished into the history. An entry that cannot be measured costs no
    other.
    """
    root = workspace.reports / "history"
    started, commit = baseline.now(), baseline.commit()
    config = {"plan": to_json(plan), "commit": commit, "stamp": toolchain(), "day": started[:10]}
    with store.open_run(workspace.reports, "nightly", plan.name, config) as opened:
        saved = _salvaged(opened.folder.parent, opened.folder, root)
        past = history.load(root)
        head = _head(opened.folder, root, plan, started, commit, past)
        head = dataclasses.replace(head, events=(*head.events, *saved))
        entries = []
        for target in targets:
            for recipe in recipes:
                home = opened.folder / target.name / recipe.name
                entries.append(
                    _entry(recipe, target, plan, workspace, home, past, head.number, progress)
                )
        night = dataclasses.replace(head, pairs=tuple(entries))
        progress("report", 0.0, "")
        _write_history(root, night)
        written = render(night, history.load(root), opened.folder)
        _finished(night, opened.folder)
        progress("report", 1.0, str(opened.folder))
        return Outcome(night, opened.folder, written, past.problems, opened.resumed)


def render(night: Night, past: History, folder: Path) -> tuple[Path, ...]:
    """Write a night's report from its record and the history; return its files."""
    drawn, rate = trends(night, past), shadow_rate(past)
    return night_report.write(night, drawn, rate, past.problems, folder)


def _finished(night: Night, folder: Path) -> None:
    """Write the night's record and its line of the index; from now on it is not gone on with."""
    line = {"format": FORMAT, **night_report.line(night)}
    files.write(folder / _LINE, json.dumps(line))
    home = folder.parent
    lines = [
        (p.parent.name, json.loads(p.read_text()))
        for p in home.glob(f"*/{_LINE}")
        if not p.parent.is_symlink()
    ]
    files.write(home / "index.html", night_report.index(lines))
    data = {"format": FORMAT, "verdict": line["verdict"], **to_json(night)}
    files.write(folder / _DONE, json.dumps(data, indent=1))
    _point_latest(folder)


def _entry(
    recipe: Recipe,
    target: TargetProfile,
    plan: NightlyPlan,
    workspace: Workspace,
    home: Path,
    past: History,
    number: int,
    progress: Progress,
) -> Pair:
    """Return an entry: as it was left by an interrupted run, or measured now."""
    done = home / "pair.json"
    if done.exists():
        return from_json(Pair, json.loads(done.read_text(encoding="utf-8")))
    files.write(home / ".here", "")
    try:
        entry = run_entry(recipe, target, plan, workspace, home, past, number, progress)
    except (TargetError, UserError) as error:
        entry = _unmeasured(recipe, target, error, workspace)
    files.write(done, json.dumps(to_json(entry)))
    return entry


def _unmeasured(
    recipe: Recipe, target: TargetProfile, error: HwbenchError, workspace: Workspace
) -> Pair:
    where = f"{error.where}: " if error.where not in ("", target.name) else ""
    pin = None
    with contextlib.suppress(UserError):
        pin = baseline.current(workspace.reports, target.name, recipe.name)
    return Pair(
        recipe.name,
        target.name,
        measured=False,
        why=f"{where}{error.what}",
        mend=error.mend,
        pin=pin,
    )


def _head(
    folder: Path, root: Path, plan: NightlyPlan, started: str, commit: str, past: History
) -> Night:
    """Return the night's head: as an interrupted run left it, or with the next number."""
    file = folder / _HEAD
    if file.exists():
        return from_json(Night, json.loads(file.read_text(encoding="utf-8")))
    newest = max((str(head["started"]) for head in past.nights.values()), default="")
    events: tuple[str, ...] = ()
    if started < newest:
        events = (
            f"the clock went back: it says {started}, the newest night in the history {newest}; "
            "nights are ordered by their number",
        )
    night = Night(
        run=f"{folder.name}-{platform.node() or 'host'}",
        number=history.next_number(root),
        started=started,
        commit=commit,
        host=platform.node(),
        plan=plan.name,
        pairs=(),
        events=events,
    )
    files.write(file, json.dumps(to_json(night)))
    return night


def _salvaged(home: Path, current: Path, root: Path) -> tuple[str, ...]:
    """Put what interrupted nights had finished into the history; return that in words."""
    sentences = []
    for folder in sorted(home.iterdir()):
        if folder == current or folder.is_symlink() or not (folder / _HEAD).exists():
            continue
        if (folder / _DONE).exists():
            continue
        head = from_json(Night, json.loads((folder / _HEAD).read_text(encoding="utf-8")))
        entries = [
            from_json(Pair, json.loads(p.read_text(encoding="utf-8")))
            for p in sorted(folder.glob("*/*/pair.json"))
        ]
        event = "this night was interrupted: what it had finished is kept"
        night = dataclasses.replace(head, pairs=tuple(entries), events=(*head.events, event))
        _write_history(root, night)
        render(night, history.load(root), folder)
        _finished(night, folder)
        sentences.append(
            f"night {head.number} was interrupted after {len(entries)} pairs; they are kept"
        )
    return tuple(sentences)


def _write_history(root: Path, night: Night) -> None:
    written: Mapping[str, None] = dict.fromkeys(p.target for p in night.pairs)
    for target in written:
        # A crash between two targets: what stands there is this very night.
        if not (root / target / f"{night.number:05}-{night.run}.jsonl").exists():
            history.write(root, night, target)


def _point_latest(folder: Path) -> None:
    link = folder.parent / "latest"
    with files.said(link):
        temporary = link.with_name(".latest.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        temporary.replace(link)
