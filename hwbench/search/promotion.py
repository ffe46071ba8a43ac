"""From untrained survivors to trained models: the cheapest evidence first, the best hope first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hwbench import stats
from hwbench.pipeline.session import Context
from hwbench.records import Candidate, Result, Value
from hwbench.search import promise, screen

LONG = 8
"""From so many epochs of fine-tuning on, an eighth of them is tried first."""


def climb(context: Context, dense: Sequence[Result], alive: Sequence[Result]) -> dict[str, str]:
    """Return who is not worth a full training, by candidate key with the reason.

    `alive` were measured untrained, `dense` beside them. Where the recovery is long, a short
    fine-tuning is tried first. Then the one that promises most is trained, which tells how well
    others may heal, and so on until all that are left promise less than `promise.LEAST` of
    the hypervolume together. What was trained is in the cache.
    """
    found, alive = _briefly(context, dense, alive)
    return found | _fully(context, dense, alive)


def changed(candidate: Candidate, **changes: Any) -> Candidate:
    """Return the candidate with other fields in its compression."""
    spec = dataclasses.replace(candidate.compression, **changes)
    return dataclasses.replace(
        candidate, export=dataclasses.replace(candidate.export, compression=spec)
    )


def _briefly(
    context: Context, dense: Sequence[Result], alive: Sequence[Result]
) -> tuple[dict[str, str], Sequence[Result]]:
    """Return who falls behind after a short fine-tuning, and the others as they are after it."""
    recovery = context.recipe.recovery
    if recovery.epochs < LONG:
        return {}, alive
    brief = dataclasses.replace(recovery, epochs=max(1, recovery.epochs // LONG))
    shorter = {r.candidate.key: changed(r.candidate, recovery=brief) for r in alive}
    context.line.train(c.compression for c in shorter.values())
    results = [_scored(context, r, shorter[r.candidate.key]) or r for r in alive]
    found = screen.hopeless([*dense, *results], context.recipe)
    said = f"after {brief.epochs} of {recovery.epochs} epochs"
    out = {key: f"{why} ({said})" for key, why in found.items()}
    return out, [r for r in results if r.candidate.key not in out]


def _fully(context: Context, dense: Sequence[Result], alive: Sequence[Result]) -> dict[str, str]:
    """Train in the order of hope; return who is left when the rest promises too little."""
    recipe, reference = context.recipe, dense[0]
    waiting = {r.candidate.key: r for r in alive if _costs(context, r, reference)}
    sure = [r for r in dense if _costs(context, r, reference)]
    trained: dict[str, Result] = {}
    seen: list[tuple[float, float]] = []
    while waiting:
        heals = promise.power(seen)
        hopes = {
            key: trained.get(key) or promise.hoped(result, reference, recipe, heals)
            for key, result in waiting.items()
        }
        picked = _picked(context, sure, hopes, reference)
        if not picked:
            share = promise.left(sure, list(hopes.values()), reference, recipe)
            why = f"promises too little: the {len(waiting)} that were left could add {share:.1%} "
            why += "to the hypervolume, healed as well as the best was"
            return dict.fromkeys(waiting, why)
        context.line.train(waiting[key].candidate.compression for key in picked)
        for key, result in list(waiting.items()):
            healed = _scored(context, result, result.candidate)
            if healed is not None:
                trained[key] = healed
            if key in picked:
                sure += [healed] if healed is not None else []
                seen += _healing(context, result, healed, reference)
                del waiting[key]
    return {}


def _picked(
    context: Context, sure: Sequence[Result], hopes: Mapping[str, Result], reference: Result
) -> list[str]:
    """Return whom to train next: as many sets of weights as there are hands."""
    assumed, waiting, picked = list(sure), dict(hopes), list[str]()
    weights: set[str] = set()
    while waiting:
        recipe = context.recipe
        key = promise.most_hopeful(assumed, list(waiting.values()), reference, recipe)
        if key is None:
            break
        weights.add(waiting[key].candidate.compression.key)
        if len(weights) > context.line.executor.size:
            break
        picked.append(key)
        assumed.append(waiting.pop(key))
    return picked


def _scored(context: Context, result: Result, candidate: Candidate) -> Result | None:
    """Return a result with the score that a candidate has after its training, if it has one."""
    own = candidate.compression
    right = next((m for m in ("top1", "score") if m in result.values), None)
    healed = context.line.trained(own)
    if right is None or healed is None:
        return None
    score = healed.scores.get("finetuned")
    if score is None:
        return None if own.epochs else result
    value = Value(right, score, result.values[right].source)
    return dataclasses.replace(result, values={**result.values, right: value})


def _healing(
    context: Context, before: Result, after: Result | None, reference: Result
) -> list[tuple[float, float]]:
    """Return the relative errors before and after a training, where both are known."""
    metric = next((m for m in ("top1", "score") if m in context.recipe.objectives), None)
    costs = [_costs(context, r, reference) if r else None for r in (before, after)]
    if metric is None or costs[0] is None or costs[1] is None:
        return []
    return [(costs[0].get(metric, 1.0), costs[1].get(metric, 1.0))]


def _costs(context: Context, result: Result, reference: Result) -> Mapping[str, float] | None:
    return stats.costs_of(result, reference, context.recipe.objectives)
