"""One model to ship on a device, or the dense one, or none; and why, in words with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hwbench import units
from hwbench.pareto import chance
from hwbench.pareto.front import Front, axis_kind, baseline, compare, front, usable
from hwbench.pareto.goals import meets, shortfall
from hwbench.pareto.words import accuracy_metric, change, gain, named, source_note
from hwbench.records import (
    METRICS,
    Decision,
    Goal,
    Recipe,
    Result,
    Source,
    Standing,
    TargetProfile,
    Value,
)


@dataclass(frozen=True, slots=True)
class _Case:
    """All that the choice is made from, looked up once."""

    recipe: Recipe
    results: tuple[Result, ...]
    dense_of: Mapping[str, Result | None]
    front: Front
    accuracy: str | None

    def goals(self, result: Result) -> list[tuple[Goal, bool, str]]:
        dense = self.dense_of[result.candidate.key]
        return [(goal, *meets(result, goal, dense)) for goal in self.recipe.goals]

    def fit(self, result: Result) -> bool:
        """Whether the candidate may be chosen: nothing missing, every goal met."""
        return self.complete(result) and all(met for _, met, _ in self.goals(result))

    def complete(self, result: Result) -> bool:
        kind = axis_kind(self.results, self.recipe.choose)
        return (
            usable(result, self.recipe.choose, kind) is not None
            and result.candidate.key not in self.front.missing
        )

    def cost(self, result: Result) -> float:
        """The metric to choose by, so that less is better whichever way it runs."""
        number = self.value(result).value
        assert number is not None
        return number if METRICS[self.recipe.choose].better == "lower" else -number

    def value(self, result: Result) -> Value:
        return result.values[self.recipe.choose]

    def better(self, a: Result, b: Result) -> bool:
        """Whether `a` beats `b` in the metric to choose by, beyond the noise."""
        return compare(self.value(a), self.value(b)) > 0

    def by_merit(self, result: Result) -> tuple[float, bool, float, float, str]:
        """Sort key among ties: more accurate, dense, fewer bytes, then the figure itself."""
        accuracy = usable(result, self.accuracy) if self.accuracy else None
        size = usable(result, "artifact_bytes")
        return (
            -accuracy.value if accuracy and accuracy.value is not None else float("inf"),
            not result.candidate.compression.is_dense,
            size.value if size and size.value is not None else float("inf"),
            self.cost(result),
            result.candidate.label + result.candidate.key,
        )


def decide(
    results: Sequence[Result], recipe: Recipe, target: TargetProfile, insist: str = ""
) -> Decision:
    """Return which model to ship: among those that meet every goal, the best in `recipe.choose`.

    Candidates whose intervals touch the best one's are ties; a tie goes to the more accurate,
    then the dense, then the smaller file. A pruned model is chosen only if it beats the best
    dense model that meets the goals beyond the noise; otherwise the verdict is ``dense``. When
    none meets the goals, the verdict is ``none`` and the reason names the nearest. A candidate
    that lacks an objective which others have is never chosen. The order of `results` does not
    matter. `insist` is the key of a candidate that meets the goals and is to be chosen whatever
    the figures say, for it has beaten the first choice in a pairwise confirmation run.
    """
    ordered = tuple(sorted(results, key=lambda r: (r.candidate.label, r.candidate.key)))
    case = _case(ordered, recipe)
    fit = [r for r in ordered if case.fit(r)]
    dense = _best_dense(case, fit)
    chosen, ties = _choose(case, fit)
    for winner in fit:
        if winner.candidate.key == insist:
            chosen, ties = winner, []
    if chosen is None:
        reason = _why_none(case)
    elif _is_dense(chosen):
        reason = _why_dense(case, chosen, fit, ties)
    else:
        reason = _why_pruned(case, chosen, dense, ties)
    chances = chance.on_front(ordered, recipe.objectives)
    kind = axis_kind(ordered, recipe.choose)
    basis = Source.MEASURED if kind is None else kind[0]
    return Decision(
        target=target.name,
        recipe=recipe.name,
        chosen=chosen.candidate.key if chosen else None,
        dense=dense.candidate.key if dense else None,
        verdict=_verdict(chosen),
        reason=_labelled(reason + _left_out(case), basis, target),
        standings=tuple(
            replace(_standing(case, r, chosen), on_front=chances.get(r.candidate.key))
            for r in ordered
        ),
        proxies=chance.proxies(ordered, recipe.objectives),
        basis=basis,
    )


def _case(results: tuple[Result, ...], recipe: Recipe) -> _Case:
    return _Case(
        recipe=recipe,
        results=results,
        dense_of={r.candidate.key: baseline(r, results) for r in results},
        front=front(results, recipe.objectives),
        accuracy=accuracy_metric(recipe.objectives, results),
    )


def _labelled(reason: str, basis: Source, target: TargetProfile) -> str:
    """Return the reason with the words that keep it from passing as measured."""
    if basis is not Source.PREDICTED:
        return reason
    then = f" To measure it, {target.how_to_reach}." if target.how_to_reach else ""
    return f"Predicted, not measured. {reason}{then}"


def _verdict(chosen: Result | None) -> Literal["pruned", "dense", "none"]:
    if chosen is None:
        return "none"
    return "dense" if chosen.candidate.compression.is_dense else "pruned"


def _choose(case: _Case, fit: Sequence[Result]) -> tuple[Result | None, list[Result]]:
    """Return the chosen candidate and those it tied with (itself left out)."""
    if not fit:
        return None, []
    best = min(fit, key=lambda r: (case.cost(r), *case.by_merit(r)))
    ties = [r for r in fit if not case.better(best, r)]
    dense = [r for r in ties if r.candidate.compression.is_dense]
    if dense:
        ties = dense
    else:
        # A tie with the best may itself be no better than the dense model: not worth shipping.
        rivals = [r for r in fit if r.candidate.compression.is_dense]
        ties = [r for r in ties if all(case.better(r, d) for d in rivals)]
    chosen = min(ties, key=case.by_merit)
    return chosen, [r for r in ties if r is not chosen]


def _best_dense(case: _Case, fit: Sequence[Result]) -> Result | None:
    """Return the dense model that one would ship otherwise, or else any that ran."""
    dense = [r for r in case.results if r.candidate.compression.is_dense and r.failure is None]
    for pool in ([r for r in dense if r in fit], [r for r in dense if case.complete(r)]):
        chosen, _ = _choose(case, pool)
        if chosen is not None:
            return chosen
    return dense[0] if dense else None


def _standing(case: _Case, result: Result, chosen: Result | None) -> Standing:
    key = result.candidate.key
    if result.failure is not None:
        why = f"{result.failure.stage}: {result.failure.message}"
        return Standing(key, "failed", meets_goals=False, reasons=(why,))
    goals = case.goals(result)
    reasons = [sentence for _, _, sentence in goals]
    status: Literal["chosen", "front", "dominated", "missing"] = "front"
    if key in case.front.dominated:
        status = "dominated"
        winner = next(
            r for r in case.results if r.candidate.key == case.front.dominated[key]
        ).candidate.label
        reasons.insert(0, f"dominated by {winner}")
    elif not case.complete(result):
        status = "missing"
        lack = case.front.missing.get(key) or f"{METRICS[case.recipe.choose].title} is missing"
        reasons.insert(0, lack)
    if chosen is not None and key == chosen.candidate.key:
        status = "chosen"
    met = all(ok for _, ok, _ in goals)
    return Standing(key, status, meets_goals=met, reasons=tuple(reasons))


def _why_pruned(case: _Case, chosen: Result, dense: Result | None, ties: Sequence[Result]) -> str:
    choose = case.recipe.choose
    head = f"Ship {named(chosen)}: {units.describe(case.value(chosen))}"
    rival = usable(dense, choose) if dense is not None else None
    if dense is None or rival is None:
        head += f"{source_note(case.value(chosen))}, with no dense model to compare it with"
        head += f" ({METRICS[choose].title} of the dense model is missing)"
    else:
        head += f" against {units.describe(rival)} for the {_dense_name(chosen, dense)}"
        head += f"{source_note(rival)} ({gain(case.value(chosen), rival)})"
        if not case.fit(dense):
            head += ", which does not meet the goals"
    parts = [head, *_asides(case, chosen, dense)]
    return ", ".join(parts) + "." + _tie_sentence(case, ties)


def _asides(case: _Case, chosen: Result, dense: Result | None) -> list[str]:
    """Return what else changes against the dense model, the accuracy first."""
    others = [m for m in case.recipe.objectives if m not in (case.recipe.choose, case.accuracy)]
    first = [case.accuracy] if case.accuracy and case.accuracy != case.recipe.choose else []
    same = case.dense_of[chosen.candidate.key]
    sentences = []
    for metric in [*first, *others]:
        value = usable(chosen, metric)
        # Accuracy is held against the same backend's dense model, as the goal is; the rest
        # against the model that would be shipped instead.
        holder = same if metric == case.accuracy else dense
        reference = usable(holder, metric) if holder is not None else None
        if value is not None and reference is not None:
            limits = [g for g in case.recipe.goals if g.metric == metric and g.kind == "max_drop"]
            sentences.append(change(value, reference, limits[0] if limits else None))
    return sentences


def _why_dense(case: _Case, chosen: Result, fit: Sequence[Result], ties: Sequence[Result]) -> str:
    choose = METRICS[case.recipe.choose]
    figures = f"{choose.title.lower()} {units.describe(case.value(chosen))}"
    accuracy = usable(chosen, case.accuracy) if case.accuracy else None
    if accuracy is not None and accuracy.metric != choose.name:
        figures += f", {METRICS[accuracy.metric].title.lower()} {units.describe(accuracy)}"
    precision = chosen.candidate.export.precision
    words = "" if precision == "fp32" else f" in {precision}"
    head = f"No pruned model pays: ship the dense model{words} on {chosen.candidate.backend.kind}"
    head += f" ({figures}{source_note(case.value(chosen))})"
    pruned = [r for r in fit if not r.candidate.compression.is_dense]
    if not pruned:
        others = [r for r in case.results if not _is_dense(r)]
        why = "no pruned model meets the goals" if others else "no pruned model was tried"
        nearest = _nearest(case, others)
        if nearest is not None:
            why += f"; the nearest is {named(nearest)}: {_misses(case, nearest)}"
        return f"{head}: {why}." + _tie_sentence(case, ties)
    best = min(pruned, key=lambda r: (case.cost(r), *case.by_merit(r)))
    verdict = "is beaten by it" if case.better(chosen, best) else "cannot be told from it"
    figure = f"{units.describe(case.value(best))}, {gain(case.value(best), case.value(chosen))}"
    return (
        f"{head}: the best pruned model that meets the goals, {named(best)}, "
        f"{verdict} ({figure})." + _tie_sentence(case, ties)
    )


def _why_none(case: _Case) -> str:
    alive = [r for r in case.results if r.failure is None]
    if not alive:
        return f"No model to ship: {_count_failed(case)}."
    met = [r for r in alive if all(ok for _, ok, _ in case.goals(r))]
    if met:
        key = met[0].candidate.key
        lack = case.front.missing.get(key) or f"{METRICS[case.recipe.choose].title} is missing"
        return (
            f"No model can be chosen: {len(met)} meet the goals, but each lacks a number "
            f"({named(met[0])}: {lack}), and a missing number never wins."
        )
    dense = "the dense model neither" if any(_is_dense(r) for r in alive) else "no dense model ran"
    nearest = _nearest(case, alive)
    if nearest is None:
        goal = "; ".join(sentence for _, met, sentence in case.goals(alive[0]) if not met)
        return f"No model meets the goals, {dense} ({named(alive[0])}: {goal})."
    return (
        f"No model meets the goals, {dense}. The nearest is {named(nearest)}: "
        f"{_misses(case, nearest)}."
    )


def _nearest(case: _Case, results: Sequence[Result]) -> Result | None:
    """Return the candidate whose worst goal is missed by the least, if any can be told."""

    def worst(result: Result) -> float | None:
        dense = case.dense_of[result.candidate.key]
        misses = [shortfall(result, goal, dense) for goal in case.recipe.goals]
        known = [miss for miss in misses if miss is not None]
        return max(known) if known and len(known) == len(misses) else None

    missed = [(miss, r.candidate.label, r) for r in results if (miss := worst(r)) is not None]
    return min(missed, key=lambda row: row[:2])[2] if missed else None


def _misses(case: _Case, result: Result) -> str:
    return "; ".join(sentence for _, met, sentence in case.goals(result) if not met)


def _tie_sentence(case: _Case, ties: Sequence[Result]) -> str:
    if not ties:
        return ""
    names = [named(r) for r in sorted(ties, key=case.by_merit)]
    shown = " and ".join(names[:2]) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"
    known = any(usable(r, case.accuracy) for r in ties) if case.accuracy else False
    return f" A tie with {shown}, broken by {'accuracy, then ' if known else ''}simplicity."


def _count_failed(case: _Case) -> str:
    count = len(case.results)
    return f"all {count} candidates failed" if count else "there were no candidates"


def _left_out(case: _Case) -> str:
    if all(result.failure is not None for result in case.results):
        return ""
    return "".join(
        f" {METRICS[metric].title} decided nothing: no candidate has it ({reason})."
        for metric, reason in case.front.left_out.items()
    )


def _dense_name(chosen: Result, dense: Result) -> str:
    if dense.candidate.backend == chosen.candidate.backend:
        return "dense model"
    return f"dense model on {dense.candidate.backend.kind}"


def _is_dense(result: Result) -> bool:
    return result.candidate.compression.is_dense
