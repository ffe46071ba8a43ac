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
from hwbench.pipeline import keys, session
from hwbench.pipeline.judge import judge
from hwbench.pipeline.prepare import Lost, Prepared, Ready, prepare, ready_of
from hwbench.pipeline.session import Context, Progress, Workspace
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
from hwbench.regress import FLOORS, conclude, crept, noise, pooled
from hwbench.regress import judge as judge_change
from hwbench.studies.nightly import baseline, blame, history, pinned_models, sessions, table
from hwbench.studies.nightly.history import History
from hwbench.studies.nightly.pinned_models import Held, Model
from hwbench.studies.nightly.sessions import Duel, Key, Seen
from hwbench.studies.nightly.watch import Watch

_SECOND = 1_000_000
"""Added to the seed of the confirming session: another order, other environments."""
_ENOUGH = 8
"""Nights after which what they scatter by is known."""
_SUSPECT = frozenset({Status.WORSE, Status.LOST})


def watch(
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
    kept = pinned_models.load(home, pin.artifacts)
    spec = dataclasses.replace(plan.measure, **target.measure)
    progress("prepare", 0.0, f"{recipe.name} on {target.name}")
    with session.opened(
        recipe, target, workspace, progress, device=device, spec=spec, folder=folder
    ) as context:
        prepared = prepare(context.line, _candidates(recipe, target, kept))
        ready = ready_of(prepared)
        view = Watch(context, plan, pin, kept, prepared, _duels(kept, ready), seed)
        pair = _watched(view, past)
        artifacts = pinned_models.keep(
            home, ready, recipe, baseline.commit(), keys.versions(), device
        )
    pinned = frozenset(p.artifacts for p in history.load_pins(root, target.name, recipe.name))
    pinned_models.prune(home, pinned | {artifacts})
    return dataclasses.replace(pair, artifacts=artifacts, seconds=time.monotonic() - since)


def _candidates(recipe: Recipe, target: TargetProfile, kept: Held) -> list[Candidate]:
    """Return what is made tonight; of a search that samples, what it had found when pinned."""
    planned = list(search.plan(recipe, target))
    if recipe.search.sampler.kind == "grid" and recipe.search.strategy == "train_all":
        return planned
    return [c for c in planned if kept.model(c.label) is not None]


def _duels(kept: Held, ready: Sequence[Ready]) -> list[Duel]:
    found: dict[str, Duel] = {}
    for prepared in ready:
        pinned = kept.model(prepared.candidate.label)
        if pinned is not None:
            tonight = Model(prepared.compiled, prepared.model)
            # Candidates that differ in what their name does not say: the first is watched.
            found.setdefault(pinned.label, Duel(pinned.label, pinned, tonight))
    return list(found.values())


def _watched(view: Watch, past: History) -> Pair:
    context = view.context
    pair = _described(view)
    if not view.duels:
        return dataclasses.replace(pair, measured=False, why=_NOTHING)
    sitting = view.session(view.duels, "first", view.seed)
    pair = dataclasses.replace(
        pair,
        fingerprint=sitting.before.fingerprint,
        segment=digest({"pin": view.pin.artifacts, "device": sitting.before.fingerprint}),
        notes=(*pair.notes, *sitting.notes),
        shadow=(sessions.shadow(sitting),),
    )
    pair = dataclasses.replace(pair, events=_events(pair, past, sitting.before))
    if not sitting.valid:
        return dataclasses.replace(pair, measured=False, why=_UNSURE, mend=_doctor(view))
    readings, more = _judged(view, sitting, pair.segment, past)
    decision, results = _decided(context, view.prepared, sitting)
    pair = dataclasses.replace(
        pair,
        readings=readings,
        shadow=(*pair.shadow, *more.shadow),
        notes=(*pair.notes, *more.notes),
        methods=table.methods(results, decision, sitting, context.recipe),
        ship=table.ship(results, decision),
        ship_reason=decision.reason,
    )
    if more.unsure:
        return dataclasses.replace(pair, measured=False, why=_UNSURE, mend=_doctor(view))
    return dataclasses.replace(pair, hints=blame.hints(view, pair.alarms))


_NOTHING = "nothing that the baseline has can be made today"
_UNSURE = "the session could not tell the pinned dense model from its own copy"


def _doctor(view: Watch) -> str:
    return f"hwbench doctor {view.context.target.name}; end what else runs there"


def _described(view: Watch) -> Pair:
    """Return what can be said of a pair before anything is measured."""
    made = {p.candidate.label for p in view.prepared}
    gone = [m.label for m in view.kept.models if m.label not in made]
    new = [p.candidate.label for p in view.prepared if view.kept.model(p.candidate.label) is None]
    notes = [f"no longer in the recipe, so not watched: {name}" for name in gone]
    notes += [f"not in the baseline, so not watched: {name}" for name in new]
    recipe = view.context.recipe
    return Pair(
        recipe=recipe.name,
        target=view.context.target.name,
        measured=True,
        pin=view.pin,
        changed=blame.changed(
            view.kept, recipe, view.context.device, baseline.commit(), keys.versions()
        ),
        notes=tuple(notes),
        samples="first",
        versions=keys.versions(),
        recipe_digest=baseline.recipe_digest(recipe),
        conditions=blame.rings(view.context.device),
    )


def _events(pair: Pair, past: History, now: Conditions) -> tuple[str, ...]:
    """Return why a new series begins tonight, if it does."""
    last = past.last(pair.target, pair.recipe)
    if last is None or last["segment"] == pair.segment or pair.pin is None:
        return ()
    found = []
    if (last["pin"] or {}).get("artifacts") != pair.pin.artifacts:
        found.append(
            f"new baseline #{pair.pin.number} by {pair.pin.who}: {pair.pin.why}; "
            "a new segment begins"
        )
    if last["fingerprint"] != pair.fingerprint:
        before = from_json(Conditions, last["conditions"])
        words = "; ".join(differences(before, now)[:3]) or "its fingerprint is another"
        found.append(f"the device is not what it was ({words}); a new segment begins")
    return tuple(found)


# --------------------------------------------------------------------------------------------
# two sessions


@dataclass(frozen=True, slots=True)
class _More:
    """What the confirming session adds; ``unsure`` when it cannot be trusted."""

    seen: Seen | None = None
    shadow: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    unsure: bool = False


def _judged(
    view: Watch, sitting: Sitting, segment: str, past: History
) -> tuple[tuple[Reading, ...], _More]:
    """Return all readings, those that look bad measured again in a fresh session."""
    context = view.context
    nights = history.series(past, context.target.name, context.recipe.name, segment)
    before = {key: [pooled(f, a) for _, f, a in series] for key, series in nights.items()}
    numbers = {key: [n for n, _, _ in series] for key, series in nights.items()}
    seen = sessions.changes(context, sitting, view.duels, context.split("validation"))
    seen = _with_compile_time(seen, view.duels)
    said = {
        key: judge_change(key[1], change, view.floor(key[1]), _scatter(change, before.get(key)))
        for key, change in seen.changes.items()
        if key[1] in FLOORS
    }
    more = _confirmed(view, {key for key, status in said.items() if status in _SUSPECT})
    found = []
    for key, status in said.items():
        again = more.seen.changes.get(key) if more.seen is not None else None
        second = None
        if again is not None:
            scatter = _scatter(again, before.get(key))
            second = judge_change(key[1], again, view.floor(key[1]), scatter)
        reading = Reading(
            key[0],
            key[1],
            seen.sources.get(key, ""),
            view.floor(key[1]).share,
            seen.changes[key],
            again if status in _SUSPECT else None,
            conclude(status, second),
            seen.reasons.get(key, ""),
        )
        found.append(_watched_for_creep(reading, before.get(key, []), numbers.get(key, [])))
    return (*found, *_never_made(view)), more


def _with_compile_time(seen: Seen, duels: Sequence[Duel]) -> Seen:
    found = dict(seen.changes)
    sources = dict(seen.sources)
    for duel in duels:
        key = duel.label, "compile_time"
        found[key] = _seconds(duel.pinned.compiled.seconds, duel.tonight.compiled.seconds)
        sources[key] = "measured"
    return dataclasses.replace(seen, changes=found, sources=sources)


def _seconds(before: float, now: float) -> Change:
    return Change(before, now, now / before if before > 0 else None)


def _scatter(change: Change, nights: Sequence[Change] | None) -> float | None:
    """Return what a series without intervals scatters by from night to night, if known."""
    if change.low is not None or nights is None:
        return None
    ratios = [c.ratio for c in nights if c.ratio is not None]
    return noise(ratios) if len(ratios) >= _ENOUGH else None


def _confirmed(view: Watch, suspects: Iterable[Key]) -> _More:
    """Measure what looks bad again: new processes, new order; compile it again, alone."""
    keys = set(suspects)
    labels = {label for label, _ in keys}
    duels = [d for d in view.duels if d.label in labels]
    if not duels:
        return _More()
    context = view.context
    timed = {label for label, metric in keys if metric != "compile_time"}
    rest = [d for d in duels if d.label in timed]
    seen, more = Seen({}, {}, {}), _More()
    if rest:
        sitting = view.session(rest, "again", view.seed + _SECOND)
        seen = sessions.changes(context, sitting, rest, context.split("validation"))
        notes = tuple(f"confirming: {note}" for note in sitting.notes)
        more = _More(None, (sessions.shadow(sitting),), notes, not sitting.valid)
    found = dict(seen.changes)
    for duel in duels:
        if (duel.label, "compile_time") in keys:
            found[duel.label, "compile_time"] = _compiled_again(view, duel)
    return dataclasses.replace(more, seen=dataclasses.replace(seen, changes=found))


def _compiled_again(view: Watch, duel: Duel) -> Change:
    """Return the compile time once more: the faster of two, with nothing else under way."""
    line, again = view.context.line, duel.tonight
    times = []
    for _ in range(2):
        try:
            made = line.compiled_again(again.compiled.candidate, again.onnx).result()
        except (StageError, UserError):
            continue
        times.append(made.seconds)
    before = duel.pinned.compiled.seconds
    return _seconds(before, min(times)) if times else Change(before, None)


def _watched_for_creep(
    reading: Reading, nights: Sequence[Change], numbers: Sequence[int]
) -> Reading:
    """Return the reading, as a creep if the nights say so together and tonight alone does not."""
    if reading.status in _SUSPECT or METRICS[reading.metric].better == "higher":
        return reading
    if reading.metric == "compile_time":
        return reading
    found = crept([*nights, pooled(reading.first, reading.again)], reading.floor)
    if found is None:
        return reading
    tonight = found.since >= len(numbers)
    since = None if tonight else numbers[found.since]
    why = (
        f"{found.level - 1:+.1%} ({found.low - 1:+.1%} to {found.high - 1:+.1%}, 99 %) over the "
        f"last {len(nights) + 1 - found.since} nights together"
    )
    return dataclasses.replace(reading, status=Status.CREEP, reason=why, since=since)


def _never_made(view: Watch) -> list[Reading]:
    """Return the readings of what the baseline has and today cannot be made."""
    before: Mapping[str, Result] = {r.candidate.label: r for r in view.kept.results}
    found = []
    for prepared in view.prepared:
        label = prepared.candidate.label
        if isinstance(prepared, Ready) or view.kept.model(label) is None:
            continue
        result = before.get(label)
        change = Change(result.number("latency_p50") if result else None)
        why = f"{prepared.failure.stage}: {prepared.failure.message}"
        metric, floor = "latency_p50", view.floor("latency_p50").share
        found.append(Reading(label, metric, "", floor, change, change, Status.LOST, why))
    return found


def _decided(
    context: Context, prepared: Sequence[Prepared], sitting: Sitting
) -> tuple[Decision, Sequence[Result]]:
    """Return which of tonight's models one would ship, from the first session."""
    seen = {m.artifact for m in sitting.measurements}
    there = [p for p in prepared if isinstance(p, Lost) or p.compiled.digest in seen]
    results = judge(context, there, sitting)
    return pareto.decide(results, context.recipe, context.target), results
