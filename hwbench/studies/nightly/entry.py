"""One recipe on one target, one night: prepare, two sessions, and what they say."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import measurement, pareto, search
from hwbench.conditions import differences
from hwbench.errors import StageError, UserError
from hwbench.pipeline import keys
from hwbench.pipeline.judge import judge
from hwbench.pipeline.prepare import Lost, Prepared, Ready, prepare, ready_of
from hwbench.pipeline.session import Context, Progress, Workspace, opened
from hwbench.records import (
    METRICS,
    Candidate,
    Change,
    Conditions,
    Decision,
    NightlyPlan,
    Pair,
    Reading,
    Recipe,
    Result,
    Sitting,
    Status,
    TargetProfile,
    digest,
    from_json,
)
from hwbench.registry import SAMPLERS
from hwbench.regress import FLOORS, conclude, crept, noise, pooled
from hwbench.regress import judge as judge_change
from hwbench.studies.nightly import baseline, blame, history, pinned_models, sessions, table
from hwbench.studies.nightly.entry_run import EntryRun
from hwbench.studies.nightly.history import History
from hwbench.studies.nightly.pinned_models import Model, PinnedArtifacts
from hwbench.studies.nightly.sessions import ArtifactPair, Key, SessionChanges

_SECOND = 1_000_000
"""Added to the seed of the confirming session: another order, other environments."""
_ENOUGH = 8
"""Nights after which what they scatter by is known."""
_SUSPECT = frozenset({Status.WORSE, Status.LOST})


def run_entry(
    recipe: Recipe,
    target: TargetProfile,
    plan: NightlyPlan,
    workspace: Workspace,
    folder: Path,
    past: History,
    seed: int,
    progress: Progress,
) -> Pair:
    """Return what tonight says about a recipe on a target; raw samples go to `folder`.

    Raises `UserError` when no baseline is pinned or its artifacts are not what was pinned, and
    `TargetError` when the device cannot be reached.
    """
    since = time.monotonic()
    device = measurement.probe(target)
    pin = baseline.current(workspace.reports, target.name, recipe.name)
    root, home = baseline.homes(workspace.reports, target.name, recipe.name)
    pinned_set = pinned_models.load(home, pin.artifacts)
    spec = dataclasses.replace(plan.measure, **target.measure)
    progress("prepare", 0.0, f"{recipe.name} on {target.name}")
    with opened(
        recipe, target, workspace, progress, device=device, spec=spec, folder=folder
    ) as context:
        prepared = prepare(context.line, _candidates(recipe, target, pinned_set))
        ready = ready_of(prepared)
        pairs = _artifact_pairs(pinned_set, ready)
        run = EntryRun(context, plan, pin, pinned_set, prepared, pairs, seed)
        entry = _measured(run, past)
        artifacts = pinned_models.keep(
            home, ready, recipe, baseline.commit(), keys.versions(), device
        )
    pinned = frozenset(p.artifacts for p in history.load_pins(root, target.name, recipe.name))
    pinned_models.prune(home, pinned | {artifacts})
    return dataclasses.replace(entry, artifacts=artifacts, seconds=time.monotonic() - since)


def _candidates(recipe: Recipe, target: TargetProfile, pinned: PinnedArtifacts) -> list[Candidate]:
    """Return what is made tonight; of a search that samples, what it had found when pinned."""
    candidates = list(search.plan(recipe, target))
    sampled = SAMPLERS.traits(recipe.search.sampler.kind).chooses
    if not sampled and recipe.search.strategy == "train_all":
        return candidates
    return [c for c in candidates if pinned.model(c.label) is not None]


def _artifact_pairs(pinned_set: PinnedArtifacts, ready: Sequence[Ready]) -> list[ArtifactPair]:
    pairs: dict[str, ArtifactPair] = {}
    for prepared in ready:
        pinned = pinned_set.model(prepared.candidate.label)
        if pinned is not None:
            tonight = Model(prepared.compiled, prepared.model)
            pairs.setdefault(pinned.label, ArtifactPair(pinned.label, pinned, tonight))
    return list(pairs.values())


def _measured(run: EntryRun, past: History) -> Pair:
    context = run.context
    entry = _described(run)
    if not run.pairs:
        return dataclasses.replace(entry, measured=False, why=_NOTHING)
    session = run.measure(run.pairs, "first", run.seed)
    entry = dataclasses.replace(
        entry,
        fingerprint=session.before.fingerprint,
        segment=digest({"pin": run.pin.artifacts, "device": session.before.fingerprint}),
        notes=(*entry.notes, *session.notes),
        shadow=(sessions.shadow(session),),
    )
    entry = dataclasses.replace(entry, events=_events(entry, past, session.before))
    if not session.valid:
        return dataclasses.replace(entry, measured=False, why=_UNSURE, mend=_doctor(run))
    readings, confirmation = _judged(run, session, entry.segment, past)
    decision, results = _decided(context, run.prepared, session)
    entry = dataclasses.replace(
        entry,
        readings=readings,
        shadow=(*entry.shadow, *confirmation.shadow),
        notes=(*entry.notes, *confirmation.notes),
        methods=table.methods(results, decision, session, context.recipe),
        ship=table.ship(results, decision),
        ship_reason=decision.reason,
    )
    if confirmation.unsure:
        return dataclasses.replace(entry, measured=False, why=_UNSURE, mend=_doctor(run))
    return dataclasses.replace(entry, hints=blame.hints(run, entry.alarms))


_NOTHING = "nothing that the baseline has can be made today"
_UNSURE = "the session could not tell the pinned dense model from its own copy"


def _doctor(run: EntryRun) -> str:
    return f"hwbench doctor {run.context.target.name}; end what else runs there"


def _described(run: EntryRun) -> Pair:
    """Return what can be said of an entry before anything is measured."""
    labels = {p.candidate.label for p in run.prepared}
    gone = [m.label for m in run.pinned.models if m.label not in labels]
    new = [p.candidate.label for p in run.prepared if run.pinned.model(p.candidate.label) is None]
    notes = [f"no longer in the recipe, so not watched: {name}" for name in gone]
    notes += [f"not in the baseline, so not watched: {name}" for name in new]
    recipe = run.context.recipe
    return Pair(
        recipe=recipe.name,
        target=run.context.target.name,
        measured=True,
        pin=run.pin,
        changed=blame.changed(
            run.pinned, recipe, run.context.device, baseline.commit(), keys.versions()
        ),
        notes=tuple(notes),
        samples="first",
        versions=keys.versions(),
        recipe_digest=baseline.recipe_digest(recipe),
        conditions=blame.rings(run.context.device),
    )


def _events(entry: Pair, past: History, now: Conditions) -> tuple[str, ...]:
    """Return why a new series begins tonight, if it does."""
    last = past.last(entry.target, entry.recipe)
    if last is None or last["segment"] == entry.segment or entry.pin is None:
        return ()
    events = []
    if (last["pin"] or {}).get("artifacts") != entry.pin.artifacts:
        events.append(
            f"new baseline #{entry.pin.number} by {entry.pin.who}: {entry.pin.why}; "
            "a new segment begins"
        )
    if last["fingerprint"] != entry.fingerprint:
        before = from_json(Conditions, last["conditions"])
        words = "; ".join(differences(before, now)[:3]) or "its fingerprint is another"
        events.append(f"the device is not what it was ({words}); a new segment begins")
    return tuple(events)


# --------------------------------------------------------------------------------------------
# two sessions


@dataclass(frozen=True, slots=True)
class _Confirmation:
    """What the confirming session adds; ``unsure`` when it cannot be trusted."""

    compared: SessionChanges | None = None
    shadow: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    unsure: bool = False


def _judged(
    run: EntryRun, session: Sitting, segment: str, past: History
) -> tuple[tuple[Reading, ...], _Confirmation]:
    """Return all readings, those that look bad measured again in a fresh session."""
    context = run.context
    nights = history.series(past, context.target.name, context.recipe.name, segment)
    before = {key: [pooled(f, a) for _, f, a in series] for key, series in nights.items()}
    numbers = {key: [n for n, _, _ in series] for key, series in nights.items()}
    first = sessions.changes(context, session, run.pairs, context.split("validation"))
    first = _with_compile_time(first, run.pairs)
    statuses = {
        key: judge_change(key[1], change, run.floor(key[1]), _scatter(change, before.get(key)))
        for key, change in first.changes.items()
        if key[1] in FLOORS
    }
    confirmation = _confirmed(run, {key for key, status in statuses.items() if status in _SUSPECT})
    readings = []
    for key, status in statuses.items():
        again = (
            confirmation.compared.changes.get(key) if confirmation.compared is not None else None
        )
        status_again = None
        if again is not None:
            scatter = _scatter(again, before.get(key))
            status_again = judge_change(key[1], again, run.floor(key[1]), scatter)
        reading = Reading(
            key[0],
            key[1],
            first.sources.get(key, ""),
            run.floor(key[1]).share,
            first.changes[key],
            again if status in _SUSPECT else None,
            conclude(status, status_again),
            first.reasons.get(key, ""),
        )
        readings.append(_creeping(reading, before.get(key, []), numbers.get(key, [])))
    return (*readings, *_lost(run)), confirmation


def _with_compile_time(compared: SessionChanges, pairs: Sequence[ArtifactPair]) -> SessionChanges:
    changes = dict(compared.changes)
    sources = dict(compared.sources)
    for pair in pairs:
        key = pair.label, "compile_time"
        changes[key] = _seconds(pair.pinned.compiled.seconds, pair.tonight.compiled.seconds)
        sources[key] = "measured"
    return dataclasses.replace(compared, changes=changes, sources=sources)


def _seconds(before: float, now: float) -> Change:
    return Change(before, now, now / before if before > 0 else None)


def _scatter(change: Change, nights: Sequence[Change] | None) -> float | None:
    """Return what a series without intervals scatters by from night to night, if known."""
    if change.low is not None or nights is None:
        return None
    ratios = [c.ratio for c in nights if c.ratio is not None]
    return noise(ratios) if len(ratios) >= _ENOUGH else None


def _confirmed(run: EntryRun, suspects: Iterable[Key]) -> _Confirmation:
    """Measure what looks bad again: new processes, new order; compile it again, alone."""
    keys = set(suspects)
    labels = {label for label, _ in keys}
    pairs = [p for p in run.pairs if p.label in labels]
    if not pairs:
        return _Confirmation()
    context = run.context
    timed = {label for label, metric in keys if metric != "compile_time"}
    rest = [p for p in pairs if p.label in timed]
    compared, confirmation = SessionChanges({}, {}, {}), _Confirmation()
    if rest:
        session = run.measure(rest, "again", run.seed + _SECOND)
        compared = sessions.changes(context, session, rest, context.split("validation"))
        notes = tuple(f"confirming: {note}" for note in session.notes)
        confirmation = _Confirmation(None, (sessions.shadow(session),), notes, not session.valid)
    changes = dict(compared.changes)
    for pair in pairs:
        if (pair.label, "compile_time") in keys:
            changes[pair.label, "compile_time"] = _compiled_again(run, pair)
    return dataclasses.replace(
        confirmation, compared=dataclasses.replace(compared, changes=changes)
    )


def _compiled_again(run: EntryRun, pair: ArtifactPair) -> Change:
    """Return the compile time once more: the faster of two, with nothing else under way."""
    line, again = run.context.line, pair.tonight
    times = []
    for _ in range(2):
        try:
            compiled = line.compiled_again(again.compiled.candidate, again.onnx).result()
        except (StageError, UserError):
            continue
        times.append(compiled.seconds)
    before = pair.pinned.compiled.seconds
    return _seconds(before, min(times)) if times else Change(before, None)


def _creeping(reading: Reading, nights: Sequence[Change], numbers: Sequence[int]) -> Reading:
    """Return the reading, as a creep if the nights say so together and tonight alone does not."""
    if reading.status in _SUSPECT or METRICS[reading.metric].better == "higher":
        return reading
    if reading.metric == "compile_time":
        return reading
    creep = crept([*nights, pooled(reading.first, reading.again)], reading.floor)
    if creep is None:
        return reading
    tonight = creep.since >= len(numbers)
    since = None if tonight else numbers[creep.since]
    why = (
        f"{creep.level - 1:+.1%} ({creep.low - 1:+.1%} to {creep.high - 1:+.1%}, 99 %) over the "
        f"last {len(nights) + 1 - creep.since} nights together"
    )
    return dataclasses.replace(reading, status=Status.CREEP, reason=why, since=since)


def _lost(run: EntryRun) -> list[Reading]:
    """Return the readings of what the baseline has and today cannot be made."""
    before: Mapping[str, Result] = {r.candidate.label: r for r in run.pinned.results}
    readings = []
    for prepared in run.prepared:
        label = prepared.candidate.label
        if isinstance(prepared, Ready) or run.pinned.model(label) is None:
            continue
        result = before.get(label)
        change = Change(result.number("latency_p50") if result else None)
        why = f"{prepared.failure.stage}: {prepared.failure.message}"
        metric, floor = "latency_p50", run.floor("latency_p50").share
        readings.append(Reading(label, metric, "", floor, change, change, Status.LOST, why))
    return readings


def _decided(
    context: Context, prepared: Sequence[Prepared], session: Sitting
) -> tuple[Decision, Sequence[Result]]:
    """Return which of tonight's models one would ship, from the first session."""
    measured = {m.artifact for m in session.measurements}
    usable = [p for p in prepared if isinstance(p, Lost) or p.compiled.digest in measured]
    results = judge(context, usable, session)
    return pareto.decide(results, context.recipe, context.target), results
