"""How much each layer can lose alone: for the report of a bench, and as a question of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from hwbench import files, search, store
from hwbench.errors import StageError
from hwbench.executor.jobs import Job, Sense, Sensed
from hwbench.executor.local import Crew
from hwbench.pipeline.context import Context, Place, Show, measure_spec, open_cache, stamp
from hwbench.pipeline.judge import check_metric
from hwbench.records import CompressionSpec, Recipe, TargetProfile, criterion, to_json


def sense(
    recipe: Recipe, target: TargetProfile, place: Place, show: Show
) -> tuple[list[Sensed], list[str]]:
    """Return the curves of every pattern and criterion of a recipe, and why others have none.

    Nothing is measured on the target: it only says in which multiples channels go. Raises
    `UserError` for a mistake in the recipe.
    """
    config = {"recipe": to_json(recipe), "target": to_json(target), "stamp": stamp()}
    with (
        store.open_run(place.reports, f"{recipe.name}-sensitivity", target.name, config) as run,
        Crew(place.jobs, run.folder / "logs", _progress(show), place.patience) as crew,
    ):
        spec, cache = measure_spec(recipe, target), open_cache(place)
        context = Context(recipe, target, spec, cache, run, crew, show, place.fresh)
        check_metric(context)
        found, notes = sensed(context)
        data = {"format": store.FORMAT, "sensed": to_json(found), "notes": notes}
        files.write(run.folder / "decision.json", json.dumps(data, indent=1))
        return found, notes


def _progress(show: Show) -> Callable[[Job, float], None]:
    def heard(job: Job, share: float) -> None:
        if isinstance(job, Sense):
            show("search", share, f"{job.spec.pattern} {job.spec.criterion}: each layer alone")

    return heard


def sensed(context: Context) -> tuple[list[Sensed], list[str]]:
    """Return the same for a run in progress; what was tried before comes from the cache.

    Without ``sensitivity: true`` only for the methods whose scope it is: there it costs nothing.
    """
    recipe, cache = context.recipe, context.cache
    asked = {
        spec.alone.key: spec
        for spec in _specs(context)
        if recipe.sensitivity or spec.scope == "sensitivity"
    }
    waiting = [
        (spec, context.crew.submit(Sense(spec, cache.root, cache.stamp))) for spec in asked.values()
    ]
    found, notes = [], []
    for spec, future in waiting:
        try:
            found += [answer for answer in future.result() if isinstance(answer, Sensed)]
        except StageError as error:
            notes.append(f"no sensitivity of {spec.pattern} {spec.criterion}: {error.what}")
    return found, notes


def _specs(context: Context) -> Sequence[CompressionSpec]:
    """Return the pruned specs of the recipe's first seed that follow a criterion."""
    specs = (c.compression for c in search.plan(context.recipe, context.target))
    first = context.recipe.seeds[0]
    return [
        s
        for s in specs
        if not s.is_dense and not criterion(s.criterion).control and s.seed == first
    ]
