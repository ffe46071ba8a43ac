"""From a time budget to a share for each layer, and whether that beats the same share for all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwbench import files, measurement, search, store
from hwbench.errors import UserError
from hwbench.pipeline import keys, session
from hwbench.pipeline.judge import judge
from hwbench.pipeline.measuring import sit
from hwbench.pipeline.prepare import insist, ready_of
from hwbench.pipeline.session import Context, Progress, Workspace
from hwbench.records import (
    Candidate,
    Choice,
    CompressionSpec,
    ExportSpec,
    LatencyTable,
    Plan,
    PluginSpec,
    Recipe,
    Result,
    TargetProfile,
    to_json,
)

SHARES = (0.25, 0.5, 0.75)
"""Shares of one layer that the table has; rounding to the target's multiple may merge some."""
TIGHTER = (1.0, 0.94, 0.88, 0.82, 0.76, 0.68, 0.6, 0.5, 0.4, 0.3)
"""Budgets that are solved for: savings of neighbouring layers overlap, so some must be tighter."""
HALF = 0.5
UNIFORM = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What came of a budget (seconds): the table, and the plans that were measured and trained.

    ``layered`` and ``uniform`` are None when no such plan meets the budget; ``nearest`` is the
    fastest that was measured.
    """

    budget: float
    table: LatencyTable
    layered: Plan | None
    uniform: Plan | None
    nearest: Plan


def fit(
    recipe: Recipe,
    target: TargetProfile,
    backend: str,
    budget: float | None,
    workspace: Workspace,
    progress: Progress,
) -> Fitted:
    """Return channel shares by layer that meet a latency budget, beside one share for all.

    Every layer is pruned alone at some shares, untrained, and measured on the target in place:
    that is the table, kept under the device's fingerprint. A knapsack chooses shares from it;
    what it chooses is measured untrained beside uniform shares, and the best of each kind that
    meets the budget is fine-tuned with the recipe's seeds. Without `budget`, the time of the
    uniform half is taken. Raises `UserError` when recipe and target share no such backend.
    """
    device = measurement.probe(target)
    with session.opened(
        recipe,
        target,
        workspace,
        progress,
        device=device,
        question="budget",
        budget=budget,
        backend=backend,
    ) as context:
        fitted = _fit(context, _backend(recipe, target, backend), budget)
        data = {"format": store.FORMAT, "fitted": to_json(fitted)}
        files.write(context.run.folder / "decision.json", json.dumps(data, indent=1))
        return fitted


def _fit(context: Context, backend: PluginSpec, budget: float | None) -> Fitted:
    table = _table(context, backend)
    uniform = {
        f"{share:.1%} of every layer": dict.fromkeys(table.units, share) for share in UNIFORM
    }
    plans = _measured(context, backend, uniform, "uniform")
    about = _half(plans) if budget is None else budget
    layered: dict[str, Mapping[str, float]] = {}
    for part in TIGHTER:
        ratios = search.allot(table.choices, table.dense, about * part)
        if ratios and ratios not in layered.values():
            layered[f"by layer, solved for {part:.0%}"] = ratios
    # One sitting for both kinds: only then are their times comparable to the percent.
    both = _measured(context, backend, {**uniform, **layered}, "plans")
    # The half itself must fit, so it is its time in this sitting that counts.
    budget = _half(both) if budget is None else budget
    fits = [p for p in both if p.seconds <= budget]
    mine = [p for p in fits if p.name in layered]
    theirs = [p for p in fits if p.name in uniform]
    # The slowest that fits has lost the least.
    best = max(mine, key=lambda p: p.seconds, default=None)
    rival = max(theirs, key=lambda p: p.seconds, default=None)
    return Fitted(
        budget,
        table,
        _trained(context, best),
        _trained(context, rival),
        min(both, key=lambda p: p.seconds),
    )


def _half(plans: Sequence[Plan]) -> float:
    """Return the time of the uniform half, or of the first plan where it could not be made."""
    return next((p.seconds for p in plans if set(p.ratios.values()) == {HALF}), plans[0].seconds)


def _table(context: Context, backend: PluginSpec) -> LatencyTable:
    spec = _spec(context, {}, 0.0)
    units = context.line.widths(spec).result().units
    ratios = {f"{layer} {share:g}": {layer: share} for layer in units for share in SHARES}
    entry = keys.latency_table(context.on, context.spec, spec, backend, SHARES)

    def build(_folder: object) -> LatencyTable:
        dense, results = _sat(context, backend, ratios, "table")
        base, right = dense.number("latency_p50"), _score(dense)
        if base is None:
            raise UserError("the dense model has no latency", where=context.target.name)
        choices: dict[str, tuple[Choice, ...]] = dict.fromkeys(units, ())
        for name, result in results.items():
            ((layer, share),) = ratios[name].items()
            seconds = result.number("latency_p50")
            if seconds is not None and seconds < base:
                loss = max(0.0, right - _score(result))
                choices[layer] = (*choices[layer], Choice(share, base - seconds, loss))
        return LatencyTable(
            context.target.name, context.on.fingerprint, backend.kind, base, units, choices
        )

    return context.cache.make(entry, build)


def _measured(
    context: Context,
    backend: PluginSpec,
    plans: Mapping[str, Mapping[str, float]],
    into: str,
) -> list[Plan]:
    """Return the plans with their times, measured untrained; what cannot be made is left out."""
    _, results = _sat(context, backend, plans, into)
    found = []
    for name, result in results.items():
        value = result.values.get("latency_p50")
        if value is None or value.value is None:
            continue
        low, high = (value.value if end is None else end for end in (value.low, value.high))
        found.append(Plan(name, plans[name], value.value, low, high))
    if not found:
        raise UserError("not one plan could be measured", where=f"{backend.kind}: {into}")
    return found


def _sat(
    context: Context,
    backend: PluginSpec,
    plans: Mapping[str, Mapping[str, float]],
    into: str,
) -> tuple[Result, dict[str, Result]]:
    """Return the dense model's result and each plan's, untrained, all of one sitting."""
    dense = _candidate(context, backend, _spec(context, {}, 0.0).dense)
    owners = {
        name: _candidate(context, backend, _spec(context, ratios, max(ratios.values())))
        for name, ratios in plans.items()
    }
    context.progress("search", 0.0, into)
    prepared = context.line.made([dense, *{c.key: c for c in owners.values()}.values()])
    insist([p for p in prepared if p.candidate == dense], "the dense model cannot be prepared")
    sitting = sit(context, ready_of(prepared), into)
    results = {r.candidate.key: r for r in judge(context, prepared, sitting)}
    alive = {name: results[c.key] for name, c in owners.items() if results[c.key].failure is None}
    return results[dense.key], alive


def _trained(context: Context, plan: Plan | None) -> Plan | None:
    """Return the plan with the scores of its fine-tuning seeds."""
    if plan is None:
        return None
    recipe = context.recipe
    wanted = [
        dataclasses.replace(
            _spec(context, plan.ratios, max(plan.ratios.values())),
            healing="finetune",
            recovery=recipe.recovery,
            repeat=number,
        )
        for number in range(recipe.search.repeats)
    ]
    context.progress("prepare", 0.0, plan.name)
    context.line.train(wanted)
    scores = []
    for spec in wanted:
        healed = context.line.trained(spec)
        if healed is not None and healed.scores:
            scores.append(healed.scores.get("finetuned", healed.scores.get("bn_reestimated", 0.0)))
    return dataclasses.replace(plan, scores=tuple(scores))


def _spec(context: Context, ratios: Mapping[str, float], share: float) -> CompressionSpec:
    recipe = context.recipe
    method = next((m for m in recipe.methods if m.pattern == "channel"), None)
    return CompressionSpec(
        workload=recipe.workload,
        train=recipe.train,
        pattern="channel",
        criterion=method.criterion if method else "l2",
        scope="vector",
        ratios=ratios,
        sparsity=share,
        channel_multiple=context.target.channel_multiple,
        options=method.options if method else {},
        healing="bn",
        seed=recipe.seeds[0],
    )


def _candidate(context: Context, backend: PluginSpec, spec: CompressionSpec) -> Candidate:
    target = context.target
    return Candidate(ExportSpec(spec), backend, target.name, context.recipe.batch, target.threads)


def _backend(recipe: Recipe, target: TargetProfile, name: str) -> PluginSpec:
    shared: Sequence[PluginSpec] = search.shared_backends(recipe, target)
    if not name:
        return shared[0]
    for spec in shared:
        if spec.kind == name:
            return spec
    raise UserError(
        f"recipe and target do not share the backend {name!r}",
        expected=", ".join(spec.kind for spec in shared),
    )


def _score(result: Result) -> float:
    found = result.number("top1")
    return (result.number("score") if found is None else found) or 0.0
