"""The search: what a sampler asks for is tried untrained, and what cannot win is not trained."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hwbench import files, search, stats
from hwbench.pipeline.judge import failed, judge
from hwbench.pipeline.measuring import sit
from hwbench.pipeline.prepare import Lost, Prepared, Ready, insist, ready_of
from hwbench.pipeline.session import Context
from hwbench.protocols import Sampler
from hwbench.records import (
    METRICS,
    Candidate,
    CompressionSpec,
    MeasureSpec,
    Result,
    Strategy,
    Tried,
    from_json,
    to_json,
)
from hwbench.registry import SAMPLERS
from hwbench.search import promotion, screen

JOURNAL = "search.jsonl"
BATCH = 8
"""Candidates that a bounded search tries in one sitting."""
_MASK = re.compile(r"unstructured|\d+:\d+|\d+x\d+")


@dataclass(frozen=True, slots=True)
class Found:
    """What a search leaves: whom to train (dense models first), who failed, what was tried."""

    candidates: tuple[Candidate, ...]
    failures: tuple[Result, ...] = ()
    tried: tuple[Tried, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Walk:
    """A search on its way: what it tried so far, and since when.

    ``results`` are of untrained models, under the keys of the candidates they stand for, with
    times as if all had been measured in the first sitting. ``spared`` were not measured: another
    one stands for each of them (its key, and the reason).
    """

    began: float
    known: Mapping[str, Tried]
    tried: dict[str, Tried] = field(default_factory=dict)
    dense: list[Result] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    failures: list[Result] = field(default_factory=list)
    spared: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    trusted: bool = True


def find(context: Context, candidates: Sequence[Candidate], strategy: Strategy) -> Found:
    """Return which candidates to train, of all those that recipe and target allow.

    With the strategy ``train_all`` those that the sampler asks for within the budget. With
    ``latency_first`` each of them is pruned without any training, exported, compiled and measured
    in a short sitting; whoever cannot win by that (`screen.hopeless`) is dropped with its reason.
    The same recipe after an interruption tries the same again, from the cache.
    """
    asked = context.recipe.search
    dense = [c for c in candidates if c.compression.is_dense]
    pruned = [c for c in candidates if not c.compression.is_dense]
    sampler = SAMPLERS.create(asked.sampler.kind, asked.sampler.options)
    sampler.begin(search.points(pruned), len(context.recipe.objectives))
    known = _journal(context)
    walk = _Walk(time.monotonic() - max((t.seconds for t in known.values()), default=0.0), known)
    if strategy == "train_all":
        batches = _batches(context, walk, sampler, len(pruned))
        chosen = {pruned[index].key for batch in batches for index in batch}
        return Found(
            (*dense, *(c for c in pruned if c.key in chosen)), notes=_bounds(chosen, pruned)
        )
    chooses = SAMPLERS.traits(asked.sampler.kind).chooses
    walks = asked.trials is not None or asked.minutes is not None or chooses
    for batch in _batches(context, walk, sampler, BATCH if walks else len(pruned)):
        told = _try(context, walk, dense, [pruned[index] for index in batch])
        for index in batch:
            costs = told.get(pruned[index].key)
            sampler.tell(index, None if costs is None else list(costs.values()))
    dropped = _dropped(context, walk, pruned)
    failures = {r.candidate.key for r in walk.failures}
    out = failures | dropped.keys()
    alive = [c for c in pruned if c.key in walk.tried and c.key not in out]
    tried = tuple(
        dataclasses.replace(t, dropped=dropped.get(t.candidate, "")) for t in walk.tried.values()
    )
    files.write(context.run.folder / JOURNAL, "".join(json.dumps(to_json(t)) + "\n" for t in tried))
    said = f"latency first: {len(tried)} of {len(pruned)} candidates were tried untrained, "
    said += f"{len(alive)} could still win and were trained"
    return Found((*dense, *alive), tuple(walk.failures), tried, (said, *walk.notes))


def _batches(context: Context, walk: _Walk, sampler: Sampler, size: int) -> Iterator[list[int]]:
    """Yield what the sampler asks for, so many at a time, until the budget or the space ends."""
    budget = context.recipe.search
    left = budget.trials if budget.trials is not None else float("inf")
    while left > 0:
        minutes = (time.monotonic() - walk.began) / 60
        if walk.tried and budget.minutes is not None and minutes >= budget.minutes:
            return
        batch: list[int] = []
        while len(batch) < min(size, left) and (index := sampler.ask()) is not None:
            batch.append(index)
        if not batch:
            return
        left -= len(batch)
        yield batch


def _try(
    context: Context,
    walk: _Walk,
    dense: Sequence[Candidate],
    batch: Sequence[Candidate],
) -> Mapping[str, Mapping[str, float]]:
    """Measure a batch untrained; return the costs by candidate key."""
    walk.spared |= _spared(context, batch)
    # What differs only in its training is one and the same before it: the first stands for all.
    alike = {c.key: untrained(c).key for c in batch}
    owners = {alike[c.key]: c for c in reversed(batch) if c.key not in walk.spared}
    watch = _watch(context)
    ready = context.line.made([*dense, *(untrained(c) for c in owners.values())], watch)
    for prepared in ready:
        own = owners.get(prepared.candidate.key)
        if own is not None and isinstance(prepared, Lost):
            walk.failures.append(failed(dataclasses.replace(prepared, candidate=own)))
    insist(
        [p for p in ready if p.candidate.key not in owners], "the dense model cannot be prepared"
    )
    if not walk.results and not walk.spared:
        tried = [p for p in ready if p.candidate.key in owners]
        insist(tried, "no pruned candidate could be prepared")
    results = _quickly(context, walk, ready)
    reference = next(r for r in results if r.candidate.key not in owners and r.failure is None)
    told = {}
    for result in results:
        own = owners.get(result.candidate.key)
        if own is None:
            continue
        costs = stats.costs_of(result, reference, context.recipe.objectives)
        if costs is not None:
            told[own.key] = costs
    _keep(walk, results, reference, owners)
    told = {c.key: told[o.key] for c in batch if (o := owners.get(alike[c.key], c)).key in told}
    for candidate in batch:
        _note(context, walk, candidate, told.get(candidate.key))
    return told


def _keep(
    walk: _Walk,
    results: Sequence[Result],
    reference: Result,
    owners: Mapping[str, Candidate],
) -> None:
    """Keep the results of a sitting, as if measured in the first one."""
    first = next((r for r in walk.dense if r.candidate == reference.candidate), reference)
    then, now = first.number("latency_p50"), reference.number("latency_p50")
    drift = then / now if then and now else 1.0
    aligned = [_aligned(r, drift) for r in results]
    if not walk.dense:
        walk.dense += [r for r in aligned if r.candidate.compression.is_dense]
    walk.results += [
        dataclasses.replace(r, candidate=owners[r.candidate.key])
        for r in aligned
        if r.candidate.key in owners and r.failure is None
    ]


def _aligned(result: Result, drift: float) -> Result:
    values = {
        name: dataclasses.replace(
            value,
            value=value.value * drift,
            low=None if value.low is None else value.low * drift,
            high=None if value.high is None else value.high * drift,
        )
        if METRICS[name].unit == "s" and value.value is not None
        else value
        for name, value in result.values.items()
    }
    return dataclasses.replace(result, values=values)


def _dropped(context: Context, walk: _Walk, pruned: Sequence[Candidate]) -> dict[str, str]:
    """Return who is not worth training, with the reason."""
    if not walk.trusted:
        return {}
    found = screen.hopeless([*walk.dense, *walk.results], context.recipe)
    owners = {untrained(r.candidate).key: r.candidate.key for r in walk.results}
    for candidate in pruned:
        owner = owners.get(untrained(candidate).key)
        if owner in found:
            found.setdefault(candidate.key, found[owner])
    alive = [r for r in walk.results if r.candidate.key not in found]
    found |= promotion.climb(context, walk.dense, alive)
    for key, (stands, why) in walk.spared.items():
        # Where the one that was measured gained after all, the others stay in the race.
        if stands in found:
            found[key] = why
    return found


def untrained(candidate: Candidate) -> Candidate:
    """Return the candidate with its sparsity imposed at once, and nothing healed afterwards."""
    own = candidate.compression
    bare = CompressionSpec(own.workload, own.train)
    names = ("schedule", "steps", "begin", "end", "rewind", "ticket", "recovery")
    return promotion.changed(
        candidate, healing="bn", **{name: getattr(bare, name) for name in names}
    )


def _spared(context: Context, batch: Sequence[Candidate]) -> Mapping[str, tuple[str, str]]:
    """Return the masks that need no measuring: by key, who stands for them and the reason.

    Where a backend says that it skips no zero, a mask changes nothing but the numbers: its
    sparsest one is measured as a check of that word, and stands for the others.
    """
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in batch:
        if _MASK.fullmatch(candidate.compression.pattern):
            kind = (candidate.backend.kind, candidate.export.precision)
            groups.setdefault(kind, []).append(candidate)
    spared: dict[str, tuple[str, str]] = {}
    for (backend, _), members in groups.items():
        stands, *others = sorted(members, key=lambda c: (-c.compression.sparsity, c.key))
        why = _idle(context, untrained(stands)) if others else ""
        if why:
            said = f"no gain on {backend}: {stands.label} was measured for all masks ({why})"
            spared |= {c.key: (stands.key, said) for c in others}
    return spared


def _idle(context: Context, candidate: Candidate) -> str:
    """Return the backend's word that no layer of a candidate gains from zeros, or ""."""
    (prepared,) = context.line.made([candidate], _watch(context))
    notes = prepared.compiled.layers if isinstance(prepared, Ready) else ()
    if not notes or any(note.eligible for note in notes):
        return ""
    return notes[0].why


def _quickly(context: Context, walk: _Walk, ready: Sequence[Prepared]) -> Sequence[Result]:
    """Return results of a sitting that is as short as will do to tell who cannot win."""
    quick = dataclasses.replace(
        context,
        spec=short(context.spec),
        progress=lambda _phase, share, label: context.progress("search", share, label),
    )
    sitting = sit(quick, ready_of(ready), f"search-{len(walk.tried):04}")
    if not sitting.valid:
        walk.trusted = False
        walk.notes.append("the search's sitting was not valid: nobody was dropped for its sake")
    return judge(quick, ready, sitting)


def _watch(context: Context) -> Callable[[CompressionSpec, float], None]:
    return lambda spec, share: context.progress("search", share, spec.label)


def short(spec: MeasureSpec) -> MeasureSpec:
    """Return the same way to measure, with one process each and few rounds."""
    return dataclasses.replace(
        spec,
        generations=1,
        looks=(8,),
        warmup_seconds=min(spec.warmup_seconds, 0.5),
        memory_runs=min(spec.memory_runs, 5),
        energy_seconds=min(spec.energy_seconds, 0.05),
    )


def _note(
    context: Context, walk: _Walk, candidate: Candidate, costs: Mapping[str, float] | None
) -> None:
    before = walk.known.get(candidate.key)
    seconds = before.seconds if before else round(time.monotonic() - walk.began, 2)
    tried = Tried(candidate.key, candidate.label, seconds, costs, "untrained")
    walk.tried[candidate.key] = tried
    if before is None:
        files.append(context.run.folder / JOURNAL, json.dumps(to_json(tried)))


def _journal(context: Context) -> Mapping[str, Tried]:
    """Return what an interrupted search of this run had tried: its times stay what they were."""
    path = context.run.folder / JOURNAL
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            tried = from_json(Tried, json.loads(line))
        except json.JSONDecodeError:
            continue  # torn by a crash
        found[tried.candidate] = tried
    return found


def _bounds(chosen: Collection[str], pruned: Sequence[Candidate]) -> tuple[str, ...]:
    if len(chosen) == len(pruned):
        return ()
    return (f"the search's budget ended after {len(chosen)} of {len(pruned)} candidates",)
