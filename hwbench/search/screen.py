"""Who cannot win, by what is known before any training."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.pareto.front import compare, usable
from hwbench.pareto.goals import meets
from hwbench.pareto.words import accuracy_metric, named
from hwbench.records import METRICS, Goal, Recipe, Result

MARGIN = 0.02
"""Less than this share of a cost is no gain."""
RANKS = 0.03
"""What fine-tuning may turn round: an accuracy is only worse from so many points (of 1) on."""


def hopeless(results: Sequence[Result], recipe: Recipe) -> dict[str, str]:
    """Return who need not be trained, by candidate key, each with the reason in a sentence.

    `results` are of models with the sparsity imposed and nothing healed, the dense ones among
    them. A pruned one cannot win when no cost is better than the dense model's on the same
    backend, when it misses a cost goal beyond the noise, or when another is better in one cost,
    worse in none, and more accurate by far (or has the very same weights). Costs without an
    interval (a proxy) decide nothing; whoever beats another is never dropped for that one's sake.
    """
    costs = [m for m in recipe.objectives if METRICS[m].better == "lower"]
    right = accuracy_metric(recipe.objectives, results)
    alive = [r for r in results if r.failure is None]
    found: dict[str, str] = {}
    for result in alive:
        if result.candidate.compression.is_dense:
            continue
        why = _no_gain(result, peer(result, alive), costs) or _misses(result, recipe.goals)
        if why:
            found[result.candidate.key] = why
    for result in alive:
        key = result.candidate.key
        if key in found or result.candidate.compression.is_dense:
            continue
        others = (o for o in alive if o is not result and o.candidate.key not in found)
        winner = next((o for o in others if _beats(o, result, costs, right)), None)
        if winner is not None:
            found[key] = f"beaten on every axis before training by {named(winner)}"
    return found


def peer(result: Result, results: Sequence[Result]) -> Result | None:
    """Return the dense model on the same backend in the same precision, or in another."""
    own = result.candidate
    same = [
        r
        for r in results
        if r.candidate.compression.is_dense
        and r.failure is None
        and r.candidate.backend == own.backend
    ]
    return min(
        same, key=lambda r: r.candidate.export.precision != own.export.precision, default=None
    )


def _no_gain(result: Result, dense: Result | None, costs: Sequence[str]) -> str:
    """Return why pruning gained nothing on this backend, or "" where it did or nobody can tell."""
    if dense is None:
        return ""
    told = []
    for metric in costs:
        own, base = usable(result, metric), usable(dense, metric)
        if own is None or base is None or own.low is None or base.value in (None, 0.0):
            continue
        if compare(own, base, MARGIN) > 0:
            return ""
        assert own.value is not None
        assert base.value is not None
        told.append(
            f"{METRICS[metric].title.lower()} {own.value / base.value:.2f} × the dense model's"
        )
    if not told:
        return ""
    idle = not any(note.eligible for note in result.layers)
    whys = dict.fromkeys(note.why for note in result.layers) if idle else {}
    because = f" ({next(iter(whys))})" if whys else ""
    return f"no gain on {result.candidate.backend.kind}: {', '.join(told)}{because}"


def _misses(result: Result, goals: Sequence[Goal]) -> str:
    """Return the cost goal that it misses for sure: training changes no cost."""
    for goal in goals:
        value = usable(result, goal.metric)
        if goal.kind != "max" or METRICS[goal.metric].better != "lower" or value is None:
            continue
        if value.low is not None and value.low > goal.limit:
            return f"misses a goal for sure: {meets(result, goal, None)[1]}"
    return ""


def _beats(other: Result, result: Result, costs: Sequence[str], right: str | None) -> bool:
    scores = []
    for metric in costs:
        ours, theirs = usable(other, metric), usable(result, metric)
        if ours is None or theirs is None or ours.low is None or theirs.low is None:
            continue
        scores.append(compare(ours, theirs, MARGIN))
    if not scores or min(scores) < 0 or max(scores) <= 0:
        return False
    if other.candidate.compression == result.candidate.compression:
        return True
    ours, theirs = (usable(r, right) if right else None for r in (other, result))
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return False
    return ours.value - theirs.value >= RANKS
