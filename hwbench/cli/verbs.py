"""The verbs of the command line. Each reads arguments, calls one thing, shows what came back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import hwbench
from hwbench import config, store, studies, units
from hwbench.cli import (
    boards,
    budgeting,
    listing,
    measuring,
    nights,
    predicting,
    screen,
    sensing,
    starter,
)
from hwbench.cli.options import (
    AsJson,
    CacheRoot,
    Host,
    Jobs,
    Overrides,
    Patience,
    RecipeName,
    Reports,
    TargetName,
)
from hwbench.errors import Exit, TargetError, UserError
from hwbench.records import METRICS, Recipe, TargetProfile, to_json

app = typer.Typer(
    name="hwbench",
    help="Which pruned model do I ship on this device? Prune, compile, measure, decide.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(measuring.app)
app.add_typer(budgeting.app)
app.add_typer(sensing.app)
app.add_typer(boards.app)
app.add_typer(nights.app)
app.add_typer(predicting.app)
app.add_typer(listing.app)

RunFolder = Annotated[Path, typer.Argument(help="a run's folder")]

_DEFAULT = studies.Workspace()
_LATEST = _DEFAULT.reports / "latest"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"hwbench {hwbench.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command()
def bench(
    recipe: RecipeName = "p32",
    target: TargetName = "local-cpu",
    host: Host = "",
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option(help="measure again what was measured before")] = False,
    dry_run: Annotated[bool, typer.Option(help="show the plan and stop (= hwbench plan)")] = False,
    max_time: Annotated[
        float | None, typer.Option(help="seconds to measure, at most (= measure.max_time)")
    ] = None,
    reports: Reports = _DEFAULT.reports,
    cache: CacheRoot = _DEFAULT.cache,
    jobs: Jobs = _DEFAULT.jobs,
    patience: Patience = _DEFAULT.patience,
    as_json: AsJson = False,
) -> int:
    """Prune, compile and measure a model on a target, and say which one to ship.

    A board that is described but that nobody has configured is predicted, and labelled so.

    Exit 0: a model was chosen. 1: none meets the goals. 2: a mistake in what you wrote.
    3: the device cannot be used. Stop it whenever you like; the same command goes on.
    """
    if max_time is not None:
        overrides = [*(overrides or ()), f"measure.max_time={max_time!r}"]
    if dry_run:
        plan(recipe, target, host, overrides, reports, cache, jobs, as_json)
        return Exit.FINE
    workspace = studies.Workspace(reports, cache, jobs, fresh, patience)
    asked = _read(recipe, target, host, overrides)
    if studies.is_absent(asked[1]):
        screen.err.print(studies.first_line(asked[1]), soft_wrap=True, markup=False)
    with screen.progress(quiet=as_json) as show:
        outcome = studies.bench(*asked, workspace, show)
    return _told(outcome, target, as_json)


def _told(outcome: studies.Outcome, target: str, as_json: bool) -> int:
    """Show what a run left behind; return its exit code."""
    study = outcome.study
    if as_json:
        print(json.dumps({"folder": str(outcome.folder), "decision": to_json(study.decision)}))
    else:
        screen.decision(study)
        screen.out.print(f"report: {outcome.folder / 'report.html'}", soft_wrap=True)
        if studies.is_absent(study.target):
            how = study.target.how_to_reach
            screen.out.print(f"predicted, not measured: {how}", soft_wrap=True, markup=False)
    if not outcome.trusted:
        raise TargetError(
            "the session could not tell the reference from its own copy: the numbers above are "
            "not to be trusted",
            where=target,
            mend=f"hwbench doctor {target}; end what else runs there; the same command repeats it",
        )
    return Exit.MISSED if study.decision.verdict == "none" else Exit.FINE


@app.command()
def pack(
    recipe: Annotated[str, typer.Argument(help="a file in recipes/, or a path to one")] = "p32",
    target: TargetName = "local-cpu",
    to: Annotated[Path | None, typer.Option("--to", help="the folder to write; a new one")] = None,
    overrides: Overrides = None,
    cache: CacheRoot = _DEFAULT.cache,
    jobs: Jobs = _DEFAULT.jobs,
    patience: Patience = _DEFAULT.patience,
    as_json: AsJson = False,
) -> None:
    """Prepare everything here, and write a folder that measures it on a machine of its own.

    For a device that this machine cannot reach: copy the folder there, run `python3 worker.zip
    run` in it (Python, numpy and the runtime are all it needs), copy it back, and `hwbench
    unpack` it.
    """
    folder = to or Path("parcels") / f"{Path(recipe).stem}-{Path(target).stem}"
    workspace = studies.Workspace(_DEFAULT.reports, cache, jobs, patience=patience)
    with screen.progress(quiet=as_json) as show:
        packed = studies.pack(*_read(recipe, target, "", overrides), workspace, show, folder)
    if as_json:
        print(
            json.dumps(
                {
                    "folder": str(packed.folder),
                    "bytes": packed.size,
                    "artifacts": packed.artifacts,
                    "failed": {p.candidate.label: to_json(p.failure) for p in packed.failed},
                },
                indent=2,
            )
        )
        return
    for prepared in packed.failed:
        assert prepared.failure is not None
        what = f"failed: {prepared.candidate.label}: {prepared.failure.message}"
        screen.out.print(what, style="red", markup=False)
    size = units.text(packed.size, "B")
    screen.panel(
        "Packed",
        f"{packed.artifacts} artifacts, {size}: {packed.folder}\n"
        f"on the device, in that folder: python3 worker.zip run\n"
        f"then, with the folder back here: hwbench unpack {packed.folder}",
    )


@app.command()
def unpack(
    folder: Annotated[Path, typer.Argument(help="the folder that came back, measured")],
    reports: Reports = _DEFAULT.reports,
    cache: CacheRoot = _DEFAULT.cache,
    jobs: Jobs = _DEFAULT.jobs,
    as_json: AsJson = False,
) -> int:
    """Take in what a packed folder measured elsewhere: report, decision and all.

    Exit codes are those of bench. Nothing is measured here.
    """
    workspace = studies.Workspace(reports, cache, jobs)
    with screen.progress(quiet=as_json) as show:
        outcome = studies.unpack(folder, workspace, show)
    return _told(outcome, "the device it was measured on", as_json)


@app.command()
def plan(
    recipe: RecipeName = "p32",
    target: TargetName = "local-cpu",
    host: Host = "",
    overrides: Overrides = None,
    reports: Reports = _DEFAULT.reports,
    cache: CacheRoot = _DEFAULT.cache,
    jobs: Jobs = _DEFAULT.jobs,
    as_json: AsJson = False,
) -> None:
    """Show what a bench would do: candidates, trainings, files, time. Does nothing."""
    workspace = studies.Workspace(reports, cache, jobs)
    found = studies.forecast(*_read(recipe, target, host, overrides), workspace)
    if as_json:
        print(json.dumps(to_json(found), indent=2))
        return
    rows = [
        {"candidate": c.compression.label, "backend": c.backend.label, "key": c.key}
        for c in found.candidates
    ]
    screen.table(f"{found.recipe} on {found.target}: {len(rows)} candidates", rows)
    time = units.duration(found.prepare_seconds + found.measure_seconds)
    screen.panel(
        "Plan",
        f"trainings: {found.trainings}, of which {found.trainings_cached} are cached\n"
        f"artifacts: {found.artifacts}, of which {found.artifacts_cached} are cached\n"
        f"time: about {time}: {units.duration(found.prepare_seconds)} to prepare ({found.basis}) "
        f"and at most {units.duration(found.measure_seconds)} to measure\n"
        f"files: {found.folder}/<time>/ with {', '.join(found.files)}",
    )


@app.command()
def targets(as_json: AsJson = False) -> None:
    """List the devices that hwbench knows, and whether each can be reached from here."""
    profiles = [config.load_target(name) for name in config.known("targets")]
    if as_json:
        print(json.dumps([to_json(p) for p in profiles], indent=2))
        return
    rows = [
        {
            "target": p.name,
            "device": p.title,
            "chip": f"{p.soc} ({p.cores} cores, {units.text(p.ram_bytes, 'B')})",
            "backends": ", ".join(b.kind for b in p.backends),
            "reach": p.connection.kind if p.connection else f"not yet: {p.how_to_reach}",
        }
        for p in profiles
    ]
    screen.table("targets/", rows)


@app.command()
def pick(
    run: RunFolder = _LATEST,
    goals: Annotated[
        list[str] | None,
        typer.Option("--goal", help="such as top1.max_drop=1pp; replaces the recipe's goals"),
    ] = None,
    choose: Annotated[str | None, typer.Option(help="the metric to win by")] = None,
    as_json: AsJson = False,
) -> int:
    """Choose again among the results of a finished run, with other goals. Measures nothing."""
    if choose is not None and choose not in METRICS:
        raise UserError(f"unknown metric {choose!r}", where="--choose", mend=", ".join(METRICS))
    wanted = [goal for text in goals or () for goal in config.goals(text)]
    study = studies.pick(store.read_study(run), wanted, choose)
    if as_json:
        print(json.dumps(to_json(study.decision), indent=2))
    else:
        screen.decision(study)
    return Exit.MISSED if study.decision.verdict == "none" else Exit.FINE


@app.command(name="report")
def report_(run: RunFolder = _LATEST) -> None:
    """Write the report of a finished run again, with the hwbench that is installed now."""
    for path in studies.render(run):
        screen.out.print(str(path), soft_wrap=True)


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="the folder to write")],
    run: RunFolder = _LATEST,
    candidate: Annotated[
        str | None, typer.Option(help="a label or the beginning of a key; the chosen one if absent")
    ] = None,
    cache: CacheRoot = _DEFAULT.cache,
) -> None:
    """Write a candidate as a folder that runs without hwbench: ONNX, artifact, manifest, script."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        what = "is not empty" if to.is_dir() else "is a file"
        raise UserError(what, where=str(to), mend="name a new folder")
    for path in studies.export(run, candidate, to, studies.Workspace(cache=cache)):
        screen.out.print(str(path), soft_wrap=True)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where to write it")] = Path(),
    name: Annotated[str, typer.Option(help="the name of the model and its recipe")] = "my_model",
) -> None:
    """Write a commented starting point for your own model: a Python file and a recipe, that run."""
    for path in starter.write(folder, name):
        screen.out.print(str(path), soft_wrap=True)
    screen.out.print(f"next: hwbench bench --recipe {folder / f'{name}.yaml'}", soft_wrap=True)


@app.command()
def schema(
    what: Annotated[str, typer.Argument(help="recipe, target or nightly")] = "recipe",
) -> None:
    """Print the JSON Schema of a recipe, a target or a plan of nights, for your editor."""
    print(config.schema(what))


def _read(
    recipe: str, target: str, host: str, overrides: list[str] | None
) -> tuple[Recipe, TargetProfile]:
    return config.load_recipe(recipe, overrides or ()), config.load_target(target, host)
