"""The verb that asks how much each layer can lose alone."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from hwbench import config, studies
from hwbench.cli import screen
from hwbench.cli.options import AsJson, CacheRoot, Jobs, Overrides, Patience, Reports, TargetName
from hwbench.errors import Exit, UserError
from hwbench.records import to_json

app = typer.Typer()
_DEFAULT = studies.Workspace()


@app.command()
def sensitivity(
    recipe: Annotated[str, typer.Argument(help="a file in recipes/, or a path to one")] = "p32",
    pattern: Annotated[str, typer.Option(help="only this one: channel, unstructured, ...")] = "",
    criterion: Annotated[str, typer.Option(help="how weights are ranked; else the usual")] = "",
    sparsity: Annotated[float, typer.Option(min=0.01, max=0.99, help="what the shares add to")] = (
        0.5
    ),
    target: TargetName = "local-cpu",
    overrides: Overrides = None,
    reports: Reports = _DEFAULT.reports,
    cache: CacheRoot = _DEFAULT.cache,
    jobs: Jobs = _DEFAULT.jobs,
    patience: Patience = _DEFAULT.patience,
    as_json: AsJson = False,
) -> int:
    """Show how much each layer can lose alone, and read a share for each layer off it.

    Every layer is pruned by itself at five shares, batch-norm statistics are estimated again, and
    the validation split is scored, without training; on this machine, nothing is timed. The
    shares take every layer as far as one common accuracy allows. For the pictures, bench a recipe
    with --set sensitivity=true.
    """
    asked = config.load_recipe(recipe, [*(overrides or ()), *_rows(pattern, criterion, sparsity)])
    if not pattern:
        rows = tuple(dataclasses.replace(m, sparsities=(sparsity,)) for m in asked.methods)
        asked = dataclasses.replace(asked, methods=rows)
    asked = dataclasses.replace(asked, sensitivity=True)
    workspace = studies.Workspace(reports, cache, jobs, patience=patience)
    with screen.progress(quiet=as_json) as show:
        found, notes = studies.sense(asked, config.load_target(target), workspace, show)
    if as_json:
        print(json.dumps({"sensitivity": to_json(found), "notes": notes}, indent=2))
        return Exit.FINE
    if not found:
        raise UserError("; ".join(notes) or "no method of the recipe follows a criterion")
    for one in found:
        _show(one)
    for note in notes:
        screen.out.print(f"note: {note}", soft_wrap=True, markup=False)
    return Exit.FINE


def _rows(pattern: str, criterion: str, sparsity: float) -> list[str]:
    """Return the override that leaves one method, where a pattern is named."""
    if not pattern:
        if criterion:
            raise UserError("--criterion needs --pattern", where="the command line")
        return []
    method = {"pattern": pattern, **({"criterion": criterion} if criterion else {})}
    method |= {} if ":" in pattern else {"sparsities": [sparsity]}  # type: ignore[dict-item]
    return [f"search.methods={json.dumps([method])}"]


def _show(one: studies.Sensed) -> None:
    spec, curves = one.found.spec, one.found.curves
    rows = [
        {
            "layer": curve.layer,
            "units": str(curve.units),
            **{
                f"-{share:.0%}": f"{(score - curve.score) * 100:+.1f}"
                for share, score in zip(curve.sparsities, curve.scores, strict=True)
            },
            "share": f"{one.ratios[curve.layer]:.0%}",
        }
        for curve in curves
    ]
    what = f"{spec.pattern} {spec.criterion}: points of accuracy by share of one layer removed"
    screen.table(f"{what} (dense {curves[0].score * 100:.1f} %, untrained)", rows)
    shares = ", ".join(f"{name}: {share:g}" for name, share in one.ratios.items() if share)
    row = f"{{pattern: {spec.pattern}, criterion: {spec.criterion}, ratios: {{{shares}}}}}"
    screen.out.print(f"in a recipe: {row}", soft_wrap=True, markup=False)
