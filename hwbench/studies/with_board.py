"""Evidence of a device that is there: what was measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench import measurement
from hwbench.pipeline import keys, measuring, scoring
from hwbench.pipeline.confirm import confirm
from hwbench.pipeline.judge import judge
from hwbench.pipeline.prepare import Prepared, Ready, ready_of
from hwbench.pipeline.session import Context
from hwbench.records import Decision, Recipe, Result, Source, Strategy, missing
from hwbench.studies.evidence import Phases, Seen


class Measured:
    """One session for all, the choice confirmed in another, outputs scored as they came back."""

    source = Source.MEASURED

    def strategy(self, recipe: Recipe) -> Strategy:
        """Return the recipe's own."""
        return recipe.search.strategy

    def judged(self, context: Context, prepared: Sequence[Prepared], phases: Phases) -> Seen:
        """Return what one interleaved session says of every candidate."""
        with phases.timed("measure"):
            sitting = measuring.sit(context, ready_of(prepared))
        with phases.timed("score"):
            results = judge(context, prepared, sitting)
        outputs = {m.artifact: m.outputs for m in sitting.measurements}
        return Seen(results, sitting.notes, sitting.before, outputs, sitting.valid)

    def confirmed(
        self,
        context: Context,
        results: Sequence[Result],
        decision: Decision,
        ready: Sequence[Ready],
    ) -> tuple[Sequence[Result], Decision, tuple[str, ...]]:
        """Measure the choice again, head to head with its rivals."""
        decision, notes = confirm(context, decision, results, ready)
        return results, decision, notes

    def scores(
        self, context: Context, ready: Sequence[Ready], split: str
    ) -> Mapping[str, scoring.Judged]:
        """Return the scores of what the artifacts answer on the device."""
        workload = context.recipe.workload
        if measurement.is_elsewhere(context.target):
            why = "a parcel carries the validation split only: the test split was not read"
            gone = missing(context.split("validation").metric, Source.MEASURED, why)
            return {p.candidate.key: (gone, None) for p in ready}
        data = context.split(split)
        compiled = [p.compiled for p in ready]
        given = keys.inputs(workload, split)
        answers = measuring.outputs(context.cache, context.on, context.spec, compiled, given)
        found = {}
        for one in ready:
            seen = answers.of(one.compiled.digest)
            future = scoring.asked(context.line, workload, one.model, seen, data)
            limit = scoring.tolerance(one.candidate)
            found[one.candidate.key] = scoring.score(future, seen, data, seen.source, limit)
        return found
