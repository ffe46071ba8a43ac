"""Dominance beyond the noise, and the set of candidates that nothing beats.

Intervals make dominance intransitive: of three models, each a little less accurate and much
faster than the last, every neighbour may lie within the noise while the ends do not. Striking
out whatever is dominated by anything would then leave only the last. `front` therefore strikes a
candidate only for one that is itself on the front (the grounded set of the dominance graph;
Dung 1995, "On the acceptability of arguments"). Without intervals this is the Pareto front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwbench import stats
from hwbench.records import METRICS, Result, Source, Value

TIERS = ("", "meter", "counter", "model", "proxy")
STRENGTH = (Source.MEASURED, Source.EMULATED, Source.PREDICTED, Source.PROXY, Source.STATIC)

PREDICTED_TIE = 1.25
"""Predicted times nearer than this are ties: such pairs were not always ordered right."""


@dataclass(frozen=True, slots=True)
class Front:
    """Where every candidate stands, by candidate key.

    ``dominated`` names one front member that beats it, ``missing`` the objectives it lacks and
    why; failed candidates are in none of the three. ``left_out`` are objectives that no
    candidate has a number for, with the reason; they decided nothing.
    """

    members: tuple[str, ...]
    dominated: Mapping[str, str]
    missing: Mapping[str, str]
    left_out: Mapping[str, str]


Kind = tuple[Source, str]
"""Where a number comes from: its source, and for energy the tier of the meter."""


def usable(result: Result, metric: str, kind: Kind | None = None) -> Value | None:
    """Return a candidate's value if it counts: not failed, finite, and of that kind (if given)."""
    value = result.values.get(metric)
    if result.failure is not None or value is None or value.value is None:
        return None
    if not math.isfinite(value.value) or (kind is not None and kind_of(value) != kind):
        return None
    return value


def kind_of(value: Value) -> Kind:
    """Return where a number comes from; two kinds are never compared."""
    return value.source, value.tier


def compare(a: Value, b: Value, margin: float = 0.0) -> int:
    """Return 1 if `a` is better than `b` beyond the noise, -1 if worse, 0 if nobody can tell.

    With intervals on both sides they must not touch; otherwise the numbers decide. `margin` is a
    share of b's number that a difference must exceed besides. Predicted times are told apart
    from `PREDICTED_TIE` on, whatever their bands. Two kinds of source are never told
    apart: a proxy neither beats nor loses to a measured number.
    """
    if a.value is None or b.value is None or kind_of(a) != kind_of(b) or a.metric != b.metric:
        return 0
    sign = -1 if METRICS[a.metric].better == "lower" else 1
    gain = (a.value - b.value) * sign
    if gain == 0 or abs(gain) <= margin * abs(b.value):
        return 0
    if _is_predicted(a):
        # The band is common to all; what is left is what the published pairs were ordered by.
        if max(a.value, b.value) < PREDICTED_TIE * min(a.value, b.value):
            return 0
    elif _overlap(a, b):
        return 0
    return 1 if gain > 0 else -1


def dominates(a: Result, b: Result, metrics: Sequence[str], margin: float = 0.0) -> bool:
    """Return whether `a` is nowhere worse than `b` and somewhere better, beyond the noise.

    False when either lacks one of the metrics, or has it from another kind of source.
    """
    scores = []
    for metric in metrics:
        value_a, value_b = usable(a, metric), usable(b, metric)
        if value_a is None or value_b is None or kind_of(value_a) != kind_of(value_b):
            return False
        scores.append(compare(value_a, value_b, margin))
    return bool(scores) and min(scores) >= 0 and max(scores) > 0


def front(results: Sequence[Result], objectives: Sequence[str], margin: float = 0.0) -> Front:
    """Return the front over the objectives; order of the results does not matter.

    An objective is compared in the strongest kind of source that any candidate has; a candidate
    without a number of that kind is ``missing``: neither on the front nor dominating.
    """
    alive = {r.candidate.key: r for r in results if r.failure is None}
    kinds = {m: axis_kind(tuple(alive.values()), m) for m in objectives}
    live = [m for m in objectives if kinds[m] is not None]
    left_out = {m: _why_none(tuple(alive.values()), m) for m in objectives if m not in live}
    lacks = {key: _lacking(result, live, kinds) for key, result in alive.items()}
    whole = {key: alive[key] for key, reason in lacks.items() if not reason}
    winners = {
        key: {k for k, other in whole.items() if dominates(other, result, live, margin)}
        for key, result in whole.items()
    }
    out = _struck(winners)
    names = {key: result.candidate.label for key, result in whole.items()}
    return Front(
        members=tuple(sorted((k for k in whole if k not in out), key=lambda k: (names[k], k))),
        dominated={
            k: min((b for b in winners[k] if b not in out), key=lambda b: (names[b], b))
            for k in sorted(out)
        },
        missing={key: reason for key, reason in sorted(lacks.items()) if reason},
        left_out=left_out,
    )


def axis_kind(results: Sequence[Result], metric: str) -> Kind | None:
    """Return the strongest kind of number that any candidate has for a metric, or None."""
    found = {kind_of(value) for r in results if (value := usable(r, metric)) is not None}
    return min(found, key=_rank, default=None)


def _rank(kind: Kind) -> tuple[int, int]:
    source, tier = kind
    return STRENGTH.index(source), TIERS.index(tier) if tier in TIERS else len(TIERS)


def baseline(result: Result, results: Sequence[Result]) -> Result | None:
    """Return the dense model to hold `result` against, or None if every dense one failed.

    Never one in a short number format while another ran: what is lost counts from the model as
    it was trained. Best is the dense model it was pruned from on the same backend; then any dense
    model on that backend; then the one it was pruned from elsewhere; then any.
    """
    dense = [r for r in results if r.candidate.compression.is_dense and r.failure is None]
    parent = result.candidate.compression.dense.key
    backend = result.candidate.backend

    def distance(other: Result) -> tuple[bool, bool, bool, str]:
        candidate = other.candidate
        short = candidate.export.precision != "fp32"
        foreign = candidate.compression.key != parent
        return short, candidate.backend != backend, foreign, candidate.key

    return min(dense, key=distance, default=None)


def _is_predicted(value: Value) -> bool:
    return value.source is Source.PREDICTED and METRICS[value.metric].unit == "s"


def _overlap(a: Value, b: Value) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def _struck(winners: Mapping[str, set[str]]) -> set[str]:
    """Return the candidates beaten by a front member; those in an endless circle stay on it."""
    import numpy as np

    names = list(winners)
    beats = np.array([[a in winners[b] for b in names] for a in names], dtype=bool)
    out = stats.struck(beats.reshape(len(names), len(names)))
    return {name for name, is_out in zip(names, out.tolist(), strict=True) if is_out}


def _lacking(result: Result, live: Sequence[str], kinds: Mapping[str, Kind | None]) -> str:
    reasons = []
    for metric in live:
        if usable(result, metric, kinds[metric]) is None:
            reasons.append(f"{METRICS[metric].title}: {_why(result, metric)}")
    return "; ".join(reasons)


def _why(result: Result, metric: str) -> str:
    value = result.values.get(metric)
    if value is None:
        return "not recorded"
    if value.value is None:
        return value.reason
    if not math.isfinite(value.value):
        return f"is {value.value}, not a number to compare"
    return f"only {value.tier or value.source}, others have better"


def _why_none(results: Sequence[Result], metric: str) -> str:
    reasons = sorted({_why(result, metric) for result in results})
    return "; ".join(reasons) if reasons else "every candidate failed"
