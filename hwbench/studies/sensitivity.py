"""How much each layer can lose alone: for the report of a bench, and as a question of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hwbench import files, search, store
from hwbench.errors import StageError, UserError
from hwbench.pipeline import session
from hwbench.pipeline.session import Context, Progress, Workspace
from hwbench.records import (
    CompressionSpec,
    Recipe,
    Sensitivity,
    TargetProfile,
    criterion,
    to_json,
)


@dataclass(frozen=True, slots=True)
class Sensed:
    """What came of it, and each layer's share so that all together lose the spec's sparsity."""

    found: Sensitivity
    ratios: Mapping[str, float]


def sense(
    recipe: Recipe, target: TargetProfile, workspace: Workspace, progress: Progress
) -> tuple[list[Sensed], list[str]]:
    """Return the curves of every pattern and criterion of a recipe, and why others have none.

    Nothing is measured on the target: it only says in which multiples channels go. Raises
    `UserError` for a mistake in the recipe.
    """
    with session.opened(recipe, target, workspace, progress, question="sensitivity") as context:
        found, notes = sensed(context)
        data = {"format": store.FORMAT, "sensed": to_json(found), "notes": notes}
        files.write(context.run.folder / "decision.json", json.dumps(data, indent=1))
        return found, notes


def sensed(context: Context) -> tuple[list[Sensed], list[str]]:
    """Return the same for a run in progress; what was tried before comes from the cache.

    Without ``sensitivity: true`` only for the methods whose scope it is: there it costs nothing.
    """
    from hwbench.compress import allotted  # torch comes with it

    asked = {
        spec.alone.key: spec
        for spec in _specs(context)
        if context.recipe.sensitivity or spec.scope == "sensitivity"
    }
    waiting = [
        (spec, context.line.sensitivity(spec, _heard(context, spec))) for spec in asked.values()
    ]
    found, notes = [], []
    for spec, future in waiting:
        try:
            curves = future.result()
        except (StageError, UserError) as error:
            notes.append(f"no sensitivity of {spec.pattern} {spec.criterion}: {error.what}")
            continue
        found.append(Sensed(curves, allotted(curves, spec.sparsity)))
    return found, notes


def _heard(context: Context, spec: CompressionSpec) -> Callable[[float], None]:
    label = f"{spec.pattern} {spec.criterion}: each layer alone"
    return lambda share: context.progress("search", share, label)


def _specs(context: Context) -> Sequence[CompressionSpec]:
    """Return the pruned specs of the recipe's first seed that follow a criterion."""
    specs = (c.compression for c in search.plan(context.recipe, context.target))
    first = context.recipe.seeds[0]
    return [
        s
        for s in specs
        if not s.is_dense and not criterion(s.criterion).control and s.seed == first
    ]
