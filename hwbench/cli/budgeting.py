"""The verb that turns a time budget into a share for each layer."""

from __future__ import annotations

import json
import statistics
from typing import Annotated

import typer

from hwbench import config, studies, units
from hwbench.cli import screen
from hwbench.cli.options import AsJson, CacheRoot, Jobs, Overrides, RecipeName, Reports, TargetName
from hwbench.errors import Exit
from hwbench.records import Plan, Recipe, to_json

app = typer.Typer()
_DEFAULT = studies.Workspace()


@app.command()
def budget(
    recipe: RecipeName = "p32",
    target: TargetName = "local-cpu",
    limit: Annotated[
        str, typer.Option("--max", help="time of one inference, such as 30us; else the goal's")
    ] = "",
    backend: Annotated[str, typer.Option(help="one of the recipe's; the first if absent")] = "",
    overrides: Overrides = None,
    reports: Reports = _DEFAULT.reports,
    cache: CacheRoot = _DEFAULT.cache,
    jobs: Jobs = _DEFAULT.jobs,
    as_json: AsJson = False,
) -> int:
    """Find channel shares by layer that meet a latency budget on a target.

    Measures what each layer saves there, alone and in place, lets a knapsack choose, measures and
    trains the choice beside the same share for every layer. Without --max the recipe's goal
    latency_p50.max is the budget, else the time of half of every layer. Exit 1: nothing meets it.
    """
    asked = config.load_recipe(recipe, overrides or ())
    seconds = units.parse(limit, "s", where="--max") if limit else _goal(asked)
    workspace = studies.Workspace(reports, cache, jobs)
    with screen.progress(quiet=as_json) as show:
        found = studies.fit(asked, config.load_target(target), backend, seconds, workspace, show)
    if as_json:
        print(json.dumps(to_json(found), indent=2))
    else:
        _show(found)
    return Exit.FINE if found.layered or found.uniform else Exit.MISSED


def _goal(recipe: Recipe) -> float | None:
    goals = (g for g in recipe.goals if g.metric == "latency_p50" and g.kind == "max")
    return next((g.limit for g in goals), None)


def _show(found: studies.Fitted) -> None:
    table = found.table
    rows = [
        {
            "layer": layer,
            "channels": str(table.units[layer]),
            **{
                f"{choice.share:.0%} less": f"-{units.text(choice.saved, 's')}, "
                f"-{choice.loss * 100:.1f} pp untrained"
                for choice in choices
            },
        }
        for layer, choices in table.choices.items()
    ]
    heads = dict.fromkeys(head for row in rows for head in row)
    title = f"what each layer saves alone on {table.backend} (dense {units.text(table.dense, 's')})"
    screen.table(title, [{head: row.get(head, "") for head in heads} for row in rows])
    lines = [f"budget: {units.text(found.budget, 's')}"]
    for name, plan in (("by layer", found.layered), ("uniform", found.uniform)):
        lines.append(f"{name}: {_words(plan) if plan else 'no such plan meets the budget'}")
    if not (found.layered or found.uniform):
        lines.append(f"nothing meets it; the nearest is {_words(found.nearest)}")
    if found.layered:
        shares = ", ".join(f"{n}: {s:g}" for n, s in found.layered.ratios.items())
        lines.append(f"in a recipe: {{pattern: channel, scope: vector, ratios: {{{shares}}}}}")
    screen.panel("Budget", "\n".join(lines))


def _words(plan: Plan) -> str:
    ends = f"{units.text(plan.low, 's')} to {units.text(plan.high, 's')}"
    said = f"{plan.name}: {units.text(plan.seconds, 's')} ({ends})"
    if plan.scores:
        mean = statistics.mean(plan.scores)
        spread = f" ± {statistics.stdev(plan.scores) * 100:.1f}" if len(plan.scores) > 1 else ""
        said += f", {mean * 100:.1f}{spread} % over {len(plan.scores)} fine-tuning seeds"
    return said
