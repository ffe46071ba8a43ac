"""Going back to a finished run: other goals, a fresh report, another candidate's bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hwbench import pareto, report, store
from hwbench.errors import UserError, did_you_mean
from hwbench.pipeline import bundle
from hwbench.pipeline.prepare import found
from hwbench.pipeline.session import Workspace, open_cache
from hwbench.records import Decision, Goal, Result, Study
from hwbench.stats import Verdict


def pick(study: Study, goals: Sequence[Goal], choose: str | None) -> Study:
    """Return the study decided anew: with `goals` if there are any, and by `choose` if given.

    Nothing is measured; the test split, read once for the first decision, is not read again. What
    came out head to head still counts: who lost there to the run's choice is not preferred to it.
    """
    recipe = dataclasses.replace(
        study.recipe,
        goals=tuple(goals) or study.recipe.goals,
        choose=choose or study.recipe.choose,
    )
    decision: Decision = pareto.decide(study.results, recipe, study.target)
    before = study.decision
    lost = {b.other for b in before.confirmed if b.verdict == Verdict.SLOWER}
    if decision.chosen in lost and before.chosen and recipe.choose == study.recipe.choose:
        decision = pareto.decide(study.results, recipe, study.target, insist=before.chosen)
    if decision.chosen == before.chosen:
        decision = dataclasses.replace(decision, test=before.test, confirmed=before.confirmed)
    return dataclasses.replace(study, recipe=recipe, decision=decision)


def render(folder: Path) -> tuple[Path, ...]:
    """Write the report of a finished run again, from its records."""
    return report.write(store.read_study(folder), folder)


def export(
    folder: Path, wanted: str | None, destination: Path, workspace: Workspace
) -> tuple[Path, ...]:
    """Write a candidate's bundle (the chosen one's by default) and return its files.

    `wanted` is a candidate's label or the beginning of its key. Raises `UserError` when there is
    none, or its artifact is no longer in the cache.
    """
    study = store.read_study(folder)
    result = _wanted(study, wanted, folder)
    prepared = found(open_cache(workspace), result.candidate, study.target)
    if prepared is None:
        raise UserError(
            f"the artifact of {result.candidate.label!r} is no longer in the cache",
            where=str(workspace.cache),
            mend="run the bench again: it is made anew",
        )
    if result.failure is not None:
        raise UserError(
            f"{result.candidate.label!r} failed: {result.failure.message}",
            where=str(folder),
            mend="name a candidate that was measured",
        )
    decision = study.decision
    if result.candidate.key != decision.chosen:
        decision = dataclasses.replace(
            decision,
            chosen=result.candidate.key,
            reason="Exported on request; this is not the model that was chosen.",
            test={role: value for role, value in decision.test.items() if role != "chosen"},
        )
    return bundle.write(dataclasses.replace(study, decision=decision), [prepared], destination)


def _wanted(study: Study, wanted: str | None, folder: Path) -> Result:
    key = study.decision.chosen if wanted is None else wanted
    if key is None:
        raise UserError("this run chose no model", where=str(folder), mend="name a candidate")
    for result in study.results:
        if key == result.candidate.label or result.candidate.key.startswith(key):
            return result
    labels = [result.candidate.label for result in study.results]
    raise UserError(
        f"no candidate {key!r} in this run", where=str(folder), mend=did_you_mean(key, labels)
    )
