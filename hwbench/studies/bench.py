"""The main question: from a recipe and a target to the model to ship, with evidence."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import measurement, pareto, report, search, store
from hwbench.errors import StageError, TargetError, UserError
from hwbench.pipeline import bundle, keys, session
from hwbench.pipeline.energy_model import modelled
from hwbench.pipeline.judge import failed
from hwbench.pipeline.prepare import Lost, Ready, prepare, ready_of, watcher
from hwbench.pipeline.repeat import repeat
from hwbench.pipeline.session import NOWHERE, Context, Progress, Workspace
from hwbench.pipeline.shift import shift
from hwbench.records import (
    Candidate,
    Conditions,
    Decision,
    Recipe,
    Study,
    TargetProfile,
    Value,
    missing,
)
from hwbench.search.loop import find
from hwbench.studies.evidence import Evidence, Phases
from hwbench.studies.sensitivity import sensed
from hwbench.studies.with_board import Measured
from hwbench.studies.without_board import Predicted, is_absent


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves: its study, its folder and the files in it.

    ``trusted`` is False when the session could not tell the reference from its own copy.
    """

    study: Study
    folder: Path
    written: tuple[Path, ...]
    resumed: bool
    trusted: bool


def bench(
    recipe: Recipe, target: TargetProfile, workspace: Workspace, progress: Progress
) -> Outcome:
    """Run a recipe on a target, from weights to decision; return what it left behind.

    A board that is described but not configured (`without_board.is_absent`) is not measured: the
    run says all that is true without it and ends in a predicted decision. Raises `UserError` for a
    mistake of the user's, `TargetError` when the device is unusable.
    A candidate that fails is a result with its reason, and the run goes on.
    """
    candidates = search.plan(recipe, target)
    away = is_absent(target)
    evidence: Evidence = Predicted() if away else Measured()
    device = NOWHERE if away else measurement.probe(target)
    candidates, lost = runnable(candidates, target, device)
    with session.opened(recipe, target, workspace, progress, device=device) as context:
        study, ready, trusted = _study(context, candidates, evidence, lost)
        progress("report", 0.0, study.decision.reason)
        written = bundle.write(study, ready, context.run.folder / "model")
        store.write_study(study, context.run.folder)
        # The decision is written last: without it, the next run goes on here.
        written += report.write(study, context.run.folder)
        store.finish(context.run)
        progress("report", 1.0, str(context.run.folder))
        return Outcome(study, context.run.folder, written, context.run.resumed, trusted)


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
        if str(said.get(spec.kind, "")).startswith(measurement.UNAVAILABLE)
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
    context: Context, candidates: Sequence[Candidate], evidence: Evidence, lost: Sequence[str]
) -> tuple[Study, Sequence[Ready], bool]:
    """Return the study, what can be shipped of it, and whether it is to be trusted.

    The steps are those of a candidate: screened, trained and compiled, judged, seen under shift,
    decided on, confirmed, repeated, tested.
    """
    recipe, run, phases = context.recipe, context.run, Phases()
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with phases.timed("search"):
        screened = find(context, candidates, evidence.strategy(recipe))
        run.keep(screened.failures)
    with phases.timed("prepare"):
        prepared = _prepared(context, screened.candidates)
        ready = ready_of(prepared)
        run.keep(failed(p) for p in prepared if isinstance(p, Lost))
    seen = evidence.judged(context, prepared, phases)
    with phases.timed("shift"):
        shifted, shifts = shift(context, ready, seen.results)
    judged, energy = modelled(run, shifted)
    results = [*judged, *screened.failures]
    run.keep(results)
    first = pareto.decide(results, recipe, context.target)
    with phases.timed("confirm"):
        sure, decision, remarks = evidence.confirmed(context, results, first, ready)
        run.keep(sure)
    with phases.timed("repeat"):
        decision = repeat(context, decision, sure, seen.outputs)
    decision = dataclasses.replace(decision, test=_tested(context, evidence, decision, ready))
    with phases.timed("sensitivity"):
        sensitive, unsaid = sensed(context)
    if not sensitive:
        del phases.seconds["sensitivity"]
    left_out = search.left_out(recipe, context.target)
    notes = [f"the target does not run the backend {name}" for name in left_out]
    study = Study(
        recipe=dataclasses.replace(recipe, measure=context.spec),
        target=context.target,
        results=tuple(sure),
        decision=decision,
        conditions=seen.conditions,
        versions=keys.versions(),
        started=started,
        seconds=phases.seconds,
        notes=(*notes, *lost, *screened.notes, *seen.notes, *remarks, *energy, *unsaid),
        tried=screened.tried,
        shift=shifts,
        sensitivity=tuple(one.found for one in sensitive),
    )
    return study, ready, seen.trusted


def _prepared(context: Context, candidates: Sequence[Candidate]) -> list[Ready | Lost]:
    def show(share: float, label: str) -> None:
        context.progress("prepare", share, label)

    return prepare(context.line, candidates, watcher(candidates, show))


def _tested(
    context: Context, evidence: Evidence, decision: Decision, ready: Sequence[Ready]
) -> Mapping[str, Value]:
    """Return the test split's score of the chosen and of the dense model: read here, once."""
    by_key = {p.candidate.key: p for p in ready}
    roles = {"chosen": decision.chosen, "dense": decision.dense}
    wanted = {role: by_key[key] for role, key in roles.items() if key is not None}
    if not wanted:
        return {}
    try:
        scores = evidence.scores(context, list(wanted.values()), "test")
    except (StageError, UserError) as error:
        # Hours of work do not go down with the last step: the report says what is missing.
        metric = context.split("validation").metric
        reason = f"the test split cannot be read: {error.what}"
        return {role: missing(metric, evidence.source, reason) for role in wanted}
    return {role: scores[p.candidate.key][0] for role, p in wanted.items()}
