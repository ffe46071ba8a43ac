"""Whom to train next, and when to stop: what a training could still add to the front."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from hwbench import stats
from hwbench.pareto.front import baseline, usable
from hwbench.pareto.goals import meets
from hwbench.pareto.words import accuracy_metric
from hwbench.records import METRICS, Recipe, Result

LEAST = 0.03
"""Share of the hypervolume that all who are left must be able to add, to go on training."""
HEALS = 0.2
"""How a first training is thought to heal: a relative error e becomes e to this power."""
SPARE = 0.05
"""Share of the dense model's errors that a fine-tuning, being more training, may take off."""
_TAUGHT = 1.5
"""A relative error from which on a healing says something about others."""


def power(healed: Sequence[tuple[float, float]]) -> float:
    """Return the best healing seen: relative errors before and after training, as an exponent.

    Errors are relative to the dense model's (1: as good). 0 is full recovery, 1 none;
    `HEALS` where nothing is known yet.
    """
    found = [
        math.log(max(after, 1.0)) / math.log(before) for before, after in healed if before > _TAUGHT
    ]
    return min([1.0, *found]) if found else HEALS


def hoped(result: Result, reference: Result, recipe: Recipe, heals: float) -> Result:
    """Return an untrained result with the accuracy that it will have if it heals that well."""
    metric = accuracy_metric(recipe.objectives, (result, reference))
    own, dense = (usable(r, metric) if metric else None for r in (result, reference))
    costs = stats.costs_of(result, reference, [metric] if metric else [])
    if own is None or dense is None or own.value is None or dense.value is None or not costs:
        return result
    (cost,) = costs.values()
    # Relative errors are straight lines of the score, so shares of the loss are too.
    left = (cost**heals - 1) / (cost - 1) if cost > 1 else 1.0
    spare = SPARE * (1 - dense.value) if METRICS[own.metric].unit == "fraction" else 0.0
    value = dataclasses.replace(own, value=dense.value - (dense.value - own.value) * left + spare)
    return dataclasses.replace(result, values={**result.values, value.metric: value})


def most_hopeful(
    sure: Sequence[Result], hopes: Sequence[Result], reference: Result, recipe: Recipe
) -> str | None:
    """Return whom of `hopes` (by key) to train next, None when nobody is worth a training.

    `sure` are trained. First comes who would be shipped: the best in ``choose`` of all that meet
    the goals. Then who adds most to the hypervolume that `sure` rules over, as long as
    all hopes together add `LEAST` of it. `hopes` must have a number for every objective.
    """
    waiting = {r.candidate.key for r in hopes}
    shipped = _shipped((*sure, *hopes), recipe)
    if shipped in waiting:
        return shipped
    if left(sure, hopes, reference, recipe) < LEAST:
        return None
    adds = {r.candidate.key: left(sure, (r,), reference, recipe) for r in hopes}
    return max(sorted(adds), key=lambda key: adds[key])


def left(
    sure: Sequence[Result], hopes: Sequence[Result], reference: Result, recipe: Recipe
) -> float:
    """Return the share of the hypervolume that `hopes` would add to what `sure` rules over."""
    both = [
        [c for r in some if (c := stats.costs_of(r, reference, recipe.objectives)) is not None]
        for some in (sure, (*sure, *hopes))
    ]
    now, most = map(stats.ruled, both)
    return (most - now) / most if most else 0.0


def _shipped(results: Sequence[Result], recipe: Recipe) -> str | None:
    """Return who is best in the metric chosen by, among those that meet every goal."""
    sign = 1 if METRICS[recipe.choose].better == "lower" else -1
    fit = [
        (sign * number, result.candidate.label, result.candidate.key)
        for result in results
        if (number := result.number(recipe.choose)) is not None
        and all(meets(result, goal, baseline(result, results))[0] for goal in recipe.goals)
    ]
    return min(fit)[2] if fit else None
