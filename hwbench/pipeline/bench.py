"""The corridor: the only place that knows the order of the rooms."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hwbench import measure, pareto, report, search, store
from hwbench.pipeline import bundle
from hwbench.pipeline.confirm import confirm
from hwbench.pipeline.context import Context, Place, Show, open_cache, stamp, versions
from hwbench.pipeline.crew import Crew
from hwbench.pipeline.jobs import Job, Prepare, Prepared
from hwbench.pipeline.judge import failed, judge, read_test, sit
from hwbench.pipeline.prepare import prepare, weights
from hwbench.records import (
    Candidate,
    Conditions,
    Recipe,
    Study,
    TargetProfile,
    to_json,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves: its study, its folder and the files in it."""

    study: Study
    folder: Path
    written: tuple[Path, ...]
    resumed: bool


def bench(recipe: Recipe, target: TargetProfile, place: Place, show: Show) -> Outcome:
    """Run a recipe on a target, from weights to decision; return what it left behind.

    Raises `UserError` for a mistake of the user's, `TargetError` when the device is unusable.
    A candidate that fails is a result with its reason, and the run goes on.
    """
    candidates = search.plan(recipe, target)
    conditions = measure.probe(target)
    config = {
        "recipe": to_json(recipe),
        "target": to_json(target),
        "stamp": stamp(),
        "fingerprint": conditions.fingerprint,
    }
    with store.open_run(place.reports, recipe.name, target.name, config) as run:
        log = run.folder / "log.txt"
        log.touch()
        with Crew(place.jobs, log, _progress(candidates, show)) as crew:
            spec = dataclasses.replace(recipe.measure, **target.measure)
            cache = open_cache(place)
            context = Context(recipe, target, spec, cache, run, crew, show, place.fresh)
            study, ready = _study(context, candidates, conditions)
        show("report", 0.0, "writing the report")
        written = bundle.write(study, ready, run.folder / "model")
        store.write_study(study, run.folder)
        # The decision is written last: without it, the next run goes on here.
        written += report.write(study, run.folder)
        store.finish(run)
        show("report", 1.0, str(run.folder))
        return Outcome(study, run.folder, written, run.resumed)


def _study(
    context: Context, candidates: Sequence[Candidate], conditions: Conditions
) -> tuple[Study, Sequence[Prepared]]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    seconds: dict[str, float] = {}
    ready = _timed(seconds, "prepare", lambda: prepare(context, candidates))
    for prepared in ready:
        if prepared.failure is not None:
            context.run.append(failed(prepared))
    sitting = _timed(seconds, "measure", lambda: sit(context, ready, conditions))
    results = _timed(seconds, "score", lambda: judge(context, ready, sitting))
    for result in results:
        context.run.append(result)
    first = pareto.decide(results, context.recipe, context.target)
    decision, remarks = _timed(
        seconds, "confirm", lambda: confirm(context, first, results, ready, conditions)
    )
    decision = dataclasses.replace(decision, test=read_test(context, decision, ready))
    left_out = search.left_out(context.recipe, context.target)
    notes = [f"the target does not run the backend {name}" for name in left_out]
    study = Study(
        recipe=dataclasses.replace(context.recipe, measure=context.spec),
        target=context.target,
        results=tuple(results),
        decision=decision,
        conditions=sitting.before,
        versions=versions(),
        started=started,
        seconds=seconds,
        notes=(*notes, *sitting.notes, *remarks),
    )
    return study, ready


def _timed(seconds: dict[str, float], phase: str, work: Callable[[], T]) -> T:
    since = time.monotonic()
    done = work()
    seconds[phase] = round(time.monotonic() - since, 1)
    return done


def _progress(candidates: Sequence[Candidate], show: Show) -> Callable[[Job, float], None]:
    """Return what turns the hands' progress into that of the whole preparing."""
    weigh: Mapping[str, float] = weights(candidates)
    shares: dict[str, float] = {}

    def heard(job: Job, share: float) -> None:
        if isinstance(job, Prepare):
            spec = job.candidates[0].compression
            shares[spec.key] = share
            done = sum(weigh[key] * part for key, part in shares.items())
            show("prepare", min(done, 1.0), spec.label)

    return heard
