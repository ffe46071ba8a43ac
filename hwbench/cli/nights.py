"""The verbs of the night: nightly and baseline."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hwbench import config, studies
from hwbench.cli import screen
from hwbench.cli.options import AsJson, CacheRoot, Jobs, RecipeName, Reports, TargetName
from hwbench.errors import Exit
from hwbench.records import Pin, to_json
from hwbench.report import night as report
from hwbench.studies import nightly

app = typer.Typer()
pins = typer.Typer(
    no_args_is_help=True,
    help="Pin what nights are held against: artifacts and results, with who, when and why.",
)
app.add_typer(pins, name="baseline")

Why = Annotated[str, typer.Option(help="the reason, for whoever reads the reports")]
Who = Annotated[str, typer.Option(help="who decides this; the name of the account if absent")]
_DEFAULT = studies.Workspace()


@app.command(name="nightly")
def nightly_(
    plan: Annotated[str, typer.Argument(help="a plan in recipes/, or a path to one")] = "nightly",
    reports: Reports = _DEFAULT.reports,
    cache: CacheRoot = _DEFAULT.cache,
    jobs: Jobs = _DEFAULT.jobs,
    as_json: AsJson = False,
) -> int:
    """Hold today's models against the pinned ones, on every target of the plan: what got worse?

    Old and new are measured in turn in one session; what looks worse is measured again in fresh
    processes before it is an alarm. Writes reports/nightly/PLAN/TIME/ and adds to
    reports/history/. Interrupted, the same command goes on.

    Exit 0: nothing got worse. 1: something did. 2: a mistake in what you wrote. 3: nothing got
    worse, but something could not be measured.
    """
    wanted = config.load_nightly(plan)
    recipes = [config.load_recipe(name) for name in wanted.recipes]
    targets = [config.load_target(name) for name in wanted.targets]
    workspace = studies.Workspace(reports, cache, jobs)
    with screen.progress(as_json) as show:
        outcome = nightly.run(wanted, recipes, targets, workspace, show)
    night = outcome.night
    if as_json:
        found = {"verdict": report.verdict(night), "exit": int(outcome.exit_code)}
        print(json.dumps({**found, "folder": str(outcome.folder), "night": to_json(night)}))
        return outcome.exit_code
    for problem in outcome.problems:
        screen.out.print(f"history: {problem}", style="yellow", markup=False, soft_wrap=True)
    screen.panel(f"Night {night.number}", report.headline(night))
    screen.out.print(report.summary(night), markup=False, soft_wrap=True, highlight=False)
    screen.out.print(f"report: {outcome.folder / 'report.html'}", markup=False, soft_wrap=True)
    return outcome.exit_code


@pins.command(name="set")
def set_(
    why: Why,
    recipe: RecipeName = "p32",
    target: TargetName = "local-cpu",
    who: Who = "",
    if_none: Annotated[
        bool, typer.Option("--if-none", help="do nothing where a baseline is pinned already")
    ] = False,
    reports: Reports = _DEFAULT.reports,
    cache: CacheRoot = _DEFAULT.cache,
    jobs: Jobs = _DEFAULT.jobs,
    as_json: AsJson = False,
) -> int:
    """Bench a recipe on a target (seconds if nothing changed) and pin what it made.

    Exit 3: the device cannot be used, or its session is not to be trusted.
    """
    workspace = studies.Workspace(reports, cache, jobs)
    wanted = config.load_recipe(recipe), config.load_target(target)
    for pin in nightly.pinned(reports) if if_none else ():
        if (pin.recipe, pin.target) == (wanted[0].name, wanted[1].name):
            _say(pin, as_json)
            return Exit.FINE
    with screen.progress(as_json) as show:
        pin = nightly.set_baseline(*wanted, workspace, why, who, show)
    _say(pin, as_json)
    return Exit.FINE


@pins.command()
def promote(
    why: Why,
    recipe: RecipeName = "p32",
    target: TargetName = "local-cpu",
    who: Who = "",
    reports: Reports = _DEFAULT.reports,
    as_json: AsJson = False,
) -> int:
    """Make what the last night measured the baseline from now on. Measures nothing."""
    _say(nightly.promote(reports, target, recipe, why, who), as_json)
    return Exit.FINE


@pins.command()
def show(reports: Reports = _DEFAULT.reports, as_json: AsJson = False) -> int:
    """List the baselines: which artifacts, since when, who and why."""
    found = nightly.pinned(reports)
    if as_json:
        print(json.dumps(to_json(found), indent=2))
        return Exit.FINE
    now = nightly.now()
    rows = [
        {
            "recipe": p.recipe,
            "target": p.target,
            "#": str(p.number),
            "artifacts": p.artifacts,
            "age": p.age(now),
            "pinned": p.at,
            "by": p.who,
            "why": p.why,
        }
        for p in found
    ]
    screen.table(f"baselines: {len(rows)}", rows)
    return Exit.FINE


def _say(pin: Pin, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(pin), indent=2))
        return
    words = f"{pin.recipe} on {pin.target} is held against {pin.artifacts} from now on"
    screen.panel(f"Baseline #{pin.number}", f"{words} ({pin.who}: {pin.why}).")
