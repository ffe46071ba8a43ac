"""The winner once more: head to head with its rivals, in fresh processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from hwbench import measurement, pareto
from hwbench.pipeline import measuring
from hwbench.pipeline.judge import MARGIN
from hwbench.pipeline.prepare import Ready
from hwbench.pipeline.session import Context
from hwbench.records import (
    Beside,
    Decision,
    Recipe,
    Result,
    TargetProfile,
)
from hwbench.stats import Verdict

_MORE = 2
"""Generations on top: few models are measured, so each can be measured better."""


def confirm(
    context: Context,
    decision: Decision,
    results: Sequence[Result],
    ready: Sequence[Ready],
) -> tuple[Decision, tuple[str, ...]]:
    """Return the decision with its confirmation, and what the second sitting noted.

    The chosen model is measured again beside the runner-up and the dense model. It is said what
    comes out: confirmed, or a tie. A rival that meets the goals and comes out faster for sure is
    chosen instead, unless the second sitting is not valid.
    """
    if measurement.is_elsewhere(context.target):
        return decision, ("not confirmed head to head: a parcel holds one sitting",)
    rivals = pareto.rivals(results, decision, context.recipe)
    made = {p.candidate.key: p.compiled for p in ready}
    chosen = made.get(decision.chosen or "")
    found = {r.candidate.key: m for r in rivals if (m := made.get(r.candidate.key)) is not None}
    others = {k: m for k, m in found.items() if chosen is not None and m.digest != chosen.digest}
    if chosen is None or not others:
        return decision, ()
    spec = dataclasses.replace(
        context.spec,
        generations=context.spec.generations + _MORE,
        half_width=context.spec.half_width / 2,
        seed=context.spec.seed + 1,
    )
    sitting = measuring.duel(context, [chosen, *others.values()], spec)
    by_key = {key: sitting.of(model.digest) for key, model in others.items()}
    beside = measurement.beside(by_key, sitting, decision.chosen or "", MARGIN)
    confirmed = tuple(dataclasses.replace(b, other=key) for key, b in beside.items())
    by_result = {r.candidate.key: r for r in results}
    better = winner(confirmed, decision) if sitting.valid else None
    notes = tuple(f"head to head: {note}" for note in sitting.notes)
    if better is not None:
        told = swapped(decision, results, context.recipe, context.target, better)
        return told, notes
    said = words(confirmed, by_result, sitting.valid)
    whole = dataclasses.replace(
        decision, confirmed=confirmed, reason=f"{decision.reason} {said}".strip()
    )
    return whole, notes


def winner(confirmed: Sequence[Beside], decision: Decision) -> Beside | None:
    """Return the fastest of those that beat the choice, if one that may be chosen did."""
    fit = {s.candidate for s in decision.standings if s.meets_goals and s.status != "missing"}
    faster = [b for b in confirmed if b.verdict == Verdict.FASTER and b.other in fit]
    return min(faster, key=lambda b: b.ratio, default=None)


def swapped(
    first: Decision,
    results: Sequence[Result],
    recipe: Recipe,
    target: TargetProfile,
    better: Beside,
) -> Decision:
    """Return the decision for the winner of the second sitting, which says what was first."""
    decision = pareto.decide(results, recipe, target, insist=better.other)
    assert first.chosen is not None
    turned = dataclasses.replace(
        better,
        other=first.chosen,
        ratio=1 / better.ratio,
        low=None if better.high is None else 1 / better.high,
        high=None if better.low is None else 1 / better.low,
        verdict=Verdict.SLOWER.value,
    )
    label = next(r.candidate.label for r in results if r.candidate.key == first.chosen)
    said = (
        f"The first sitting preferred {label}; head to head in fresh processes it came out "
        f"{turned.ratio - 1:.1%} slower than this one, so the choice was changed."
    )
    return dataclasses.replace(
        decision, confirmed=(turned,), reason=f"{decision.reason} {said}".strip()
    )


def words(confirmed: Sequence[Beside], results: Mapping[str, Result], valid: bool) -> str:
    """Return in a sentence what the second sitting says of the choice."""
    said = []
    for beside in confirmed:
        label = results[beside.other].candidate.label
        change = abs(beside.ratio - 1.0)
        match beside.verdict:
            case Verdict.SLOWER:
                said.append(f"{label} came out {change:.1%} slower (confirmed)")
            case Verdict.FASTER:
                said.append(f"{label} came out {change:.1%} faster: the other way round")
            case Verdict.EQUIVALENT:
                said.append(f"{label} came out the same within {MARGIN:.0%}: a tie")
            case _:
                seen = (
                    f", less than {beside.detectable:.1%} is not seen" if beside.detectable else ""
                )
                said.append(f"{label} could not be told from it: a tie{seen}")
    if not said:
        return ""
    doubt = "" if valid else " (the chosen model and its own copy came out different: not sure)"
    return f"Head to head in fresh processes, {'; '.join(said)}{doubt}."
