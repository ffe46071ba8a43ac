"""Which candidates a choice is to be confirmed against."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.pareto.front import axis_kind, usable
from hwbench.records import METRICS, Decision, Recipe, Result


def rivals(results: Sequence[Result], decision: Decision, recipe: Recipe) -> tuple[Result, ...]:
    """Return what to re-measure beside the chosen model: the runner-up, and the dense one.

    The runner-up is the best of the others that meet every goal, in the metric chosen by; only a
    choice by time is re-measured. Empty when nothing was chosen.
    """
    if decision.chosen is None or METRICS[recipe.choose].unit != "s":
        return ()
    met = {s.candidate for s in decision.standings if s.meets_goals and s.status != "missing"}
    kind = axis_kind(results, recipe.choose)
    others = [
        r
        for r in results
        if r.candidate.key in met
        and r.candidate.key != decision.chosen
        and usable(r, recipe.choose, kind) is not None
    ]
    best = sorted(others, key=lambda r: (r.number(recipe.choose) or 0.0, r.candidate.label))[:1]
    dense = [r for r in results if r.candidate.key == decision.dense != decision.chosen]
    return tuple({r.candidate.key: r for r in (*best, *dense)}.values())
