"""The main question: from a recipe and a target to the model to ship, with evidence."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hwbench import measure, pareto, report, search, store
from hwbench.errors import TargetError
from hwbench.executor.jobs import Job, Prepare, Prepared
from hwbench.executor.local import Crew
from hwbench.pipeline import bundle
from hwbench.pipeline.confirm import confirm
from hwbench.pipeline.context import (
    Context,
    Place,
    Show,
    measure_spec,
    open_cache,
    stamp,
    versions,
)
from hwbench.pipeline.energy_model import modelled
from hwbench.pipeline.judge import check_metric, failed, judge, read_test, sit
from hwbench.pipeline.prepare import prepare, weights
from hwbench.pipeline.repeat import repeat
from hwbench.pipeline.shift import shift
from hwbench.records import (
    Candidate,
    Conditions,
    Recipe,
    Study,
    TargetProfile,
    to_json,
)
from hwbench.search import loop as searching
from hwbench.studies import without_board
from hwbench.studies.sensitivity import sensed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves: its study, its folder and the files in it.

    ``trusted`` is False when the sitting could not tell the reference from its own copy.
    """

    study: Study
    folder: Path
    written: tuple[Path, ...]
    resumed: bool
    trusted: bool


def bench(recipe: Recipe, target: TargetProfile, place: Place, show: Show) -> Outcome:
    """Run a recipe on a target, from weights to decision; return what it left behind.

    A board that is described but not configured (`absent.is_absent`) is not measured: the run
    says all that is true without it and ends in a predicted decision. Raises `UserError` for a
    mistake of the user's, `TargetError` when the device is unusable.
    A candidate that fails is a result with its reason, and the run goes on.
    """
    candidates = search.plan(recipe, target)
    away = without_board.is_absent(target)
    conditions = without_board.NOWHERE if away else measure.probe(target)
    candidates, lost = runnable(candidates, target, conditions)
    config = {
        "recipe": to_json(recipe),
        "target": to_json(target),
        "stamp": stamp(),
        "fingerprint": conditions.fingerprint,
        "fresh": place.fresh,
    }
    with store.open_run(place.reports, recipe.name, target.name, config) as run:
        with Crew(
            place.jobs, run.folder / "logs", _progress(candidates, show), place.patience
        ) as crew:
            spec, cache = measure_spec(recipe, target), open_cache(place)
            # A fresh run that was interrupted goes on with what it has measured.
            fresh = place.fresh and not run.resumed
            context = Context(recipe, target, spec, cache, run, crew, show, fresh)
            check_metric(context)
            if away:
                (study, ready), trusted = without_board.study(context, candidates, {}), True
            else:
                study, ready, trusted = _study(context, candidates, conditions, lost)
            study = _with_sensitivity(context, study)
        show("report", 0.0, study.decision.reason)
        written = bundle.write(study, ready, run.folder / "model")
        store.write_study(study, run.folder)
        # The decision is written last: without it, the next run goes on here.
        written += report.write(study, run.folder)
        store.finish(run)
        show("report", 1.0, str(run.folder))
        return Outcome(study, run.folder, written, run.resumed, trusted)


def _with_sensitivity(context: Context, study: Study) -> Study:
    seconds = dict(study.seconds)
    found, remarks = _timed(seconds, "sensitivity", lambda: sensed(context))
    if not found:
        del seconds["sensitivity"]
    return dataclasses.replace(
        study,
        sensitivity=tuple(one.found for one in found),
        notes=(*study.notes, *remarks),
        seconds=seconds,
    )


def runnable(
    candidates: Sequence[Candidate], target: TargetProfile, conditions: Conditions
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Return the candidates whose backend runs on the device, and a note on each that does not.

    What the recipe runs otherwise than the target's file says was not looked at, and stays.
    Raises `TargetError` when none is left.
    """
    said = conditions.software.get("backends") or {}
    lost = {
        spec.kind: (spec.options, str(said[spec.kind]))
        for spec in target.backends
        if str(said.get(spec.kind, "")).startswith(measure.UNAVAILABLE)
    }
    left = tuple(
        c
        for c in candidates
        if c.backend.kind not in lost
        or not lost[c.backend.kind][0].items() <= c.backend.options.items()
    )
    kinds = {c.backend.kind for c in candidates if c not in left}
    notes = tuple(f"{kind}: {lost[kind][1]}" for kind in sorted(kinds))
    if not left:
        raise TargetError(
            "; ".join(notes),
            where=target.name,
            expected="a backend of the recipe that runs there",
            mend=f"hwbench doctor {target.name} says what is missing",
        )
    return left, notes


def _study(
    context: Context,
    candidates: Sequence[Candidate],
    conditions: Conditions,
    lost: Sequence[str],
) -> tuple[Study, Sequence[Prepared], bool]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    seconds: dict[str, float] = {}
    found = _timed(seconds, "search", lambda: searching.find(context, candidates, conditions))
    context.run.keep(found.failures)
    ready = _timed(seconds, "prepare", lambda: prepare(context, found.candidates))
    context.run.keep(failed(p) for p in ready if p.failure is not None)
    sitting = _timed(seconds, "measure", lambda: sit(context, ready, conditions))
    results = _timed(seconds, "score", lambda: judge(context, ready, sitting))
    results, shifts = _timed(seconds, "shift", lambda: shift(context, ready, results))
    results, energy = modelled(context, results)
    results = [*results, *found.failures]
    context.run.keep(results)
    first = pareto.decide(results, context.recipe, context.target)
    decision, remarks = _timed(
        seconds, "confirm", lambda: confirm(context, first, results, ready, conditions)
    )
    decision = _timed(seconds, "repeat", lambda: repeat(context, decision, results, ready, sitting))
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
        notes=(*notes, *lost, *found.notes, *sitting.notes, *remarks, *energy),
        tried=found.tried,
        shift=shifts,
    )
    return study, ready, sitting.valid


def _timed(seconds: dict[str, float], phase: str, work: Callable[[], T]) -> T:
    since = time.monotonic()
    done = work()
    seconds[phase] = round(time.monotonic() - since, 1)
    return done


def _progress(candidates: Sequence[Candidate], show: Show) -> Callable[[Job, float], None]:
    """Return what turns the hands' progress into that of the whole preparing."""
    weigh: Mapping[str, float] = weights(candidates)
    shares = dict.fromkeys(weigh, 0.0)
    lock = threading.Lock()

    def heard(job: Job, share: float) -> None:
        if not isinstance(job, Prepare):
            return
        spec = job.candidates[0].compression
        # Every hand is listened to by a thread of its own.
        with lock:
            if spec.key not in weigh:
                show("search", share, spec.label)
                return
            shares[spec.key] = share
            done = sum(weigh[key] * part for key, part in shares.items())
            show("prepare", min(done, 1.0), spec.label)

    return heard
