"""Which pruning method pays on which device: tonight's row of the big table."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench import stats
from hwbench.errors import StageError
from hwbench.records import METRICS, Decision, MethodTonight, Recipe, Result, Sitting
from hwbench.studies.nightly.sessions import DECIDE


def methods(
    results: Sequence[Result], decision: Decision, session: Sitting, recipe: Recipe
) -> tuple[MethodTonight, ...]:
    """Return a row a pruning method: its best candidate, beside tonight's dense model."""
    dense = next((r for r in results if r.candidate.key == decision.dense), None)
    if dense is None:
        return ()
    meets = {s.candidate for s in decision.standings if s.meets_goals}
    groups: dict[str, list[Result]] = {}
    for result in results:
        if not result.candidate.compression.is_dense:
            groups.setdefault(result.candidate.compression.method, []).append(result)
    return tuple(_row(name, group, dense, meets, session, recipe) for name, group in groups.items())


def ship(results: Sequence[Result], decision: Decision) -> str:
    """Return the label of what to ship on this device, or ``none``."""
    chosen = next((r for r in results if r.candidate.key == decision.chosen), None)
    return chosen.candidate.label if chosen is not None else "none"


def _row(
    name: str,
    group: Sequence[Result],
    dense: Result,
    meets: set[str],
    session: Sitting,
    recipe: Recipe,
) -> MethodTonight:
    alive = [r for r in group if r.failure is None and r.number("latency_p50") is not None]
    metric = next((m for m in recipe.objectives if m in ("top1", "score")), "top1")
    if not alive:
        return MethodTonight(name, "", None, None, None, None, None, metric, False, "failed")
    good = [r for r in alive if r.candidate.key in meets]
    best = min(good or alive, key=lambda r: r.number("latency_p50") or 0.0)
    ratio = _ratio(best, dense, session)
    score, other = best.number(metric), dense.number(metric)
    drop = score - other if score is not None and other is not None else None
    return MethodTonight(
        name,
        best.candidate.label,
        ratio.estimate if ratio else None,
        ratio.low if ratio and ratio.bounded else None,
        ratio.high if ratio and ratio.bounded else None,
        score,
        drop,
        metric if metric in METRICS else "top1",
        bool(good),
        stats.verdict(ratio, 0.0).value if ratio else "",
    )


def _ratio(best: Result, dense: Result, session: Sitting) -> stats.Interval | None:
    measured = {m.artifact: m.latency for m in session.measurements}
    spread = stats.pooled_spread(list(measured.values()), session.reference.latency)
    try:
        return stats.ratio(
            measured.get(best.artifact, ()), measured.get(dense.artifact, ()), DECIDE, spread
        )
    except StageError:
        return None
