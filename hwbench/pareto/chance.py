"""How sure the front is: its chance in other processes, and what it owes to proxies."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from hwbench import stats
from hwbench.pareto.front import Kind, axis_kind, front, usable
from hwbench.records import METRICS, Result, Source, Value

PROXY_ERROR = 0.35
"""Load times watts is off by this much on average, against RAPL."""
_STAND_INS = (Source.PROXY, Source.PREDICTED)


def on_front(results: Sequence[Result], objectives: Sequence[str]) -> dict[str, float]:
    """Return each candidate's probability of being on the front, 0..1, by its key.

    Whole generations of processes are drawn again and again (`stats.front_probability`), and
    each draw is judged as `front` judges the figures themselves: on the front here means likely
    there again. A number without generations stays where it is. A candidate that lacks an
    objective is left out.
    """
    import numpy as np

    whole = {}
    kinds = {m: axis_kind(results, m) for m in objectives}
    if any(_is_predicted(metric, kind) for metric, kind in kinds.items()):
        return {}  # no processes, no generations: there is nothing to draw from
    live = [m for m in objectives if kinds[m] is not None]
    for result in results:
        numbers = {m: v for m in live if (v := usable(result, m, kinds[m])) is not None}
        if live and len(numbers) == len(live):
            whole[result.candidate.key] = numbers
    counts = Counter(
        len(v.generations) for axes in whole.values() for v in axes.values() if v.generations
    )
    length = counts.most_common(1)[0][0] if counts else 1
    values = {
        key: {m: _drawn(value, length) for m, value in axes.items()} for key, axes in whole.items()
    }
    better = {m: METRICS[m].better for m in live}
    if not values:
        return {}
    bounds = {
        key: {
            m: (v.low, v.high) for m, v in axes.items() if v.low is not None and v.high is not None
        }
        for key, axes in whole.items()
    }
    return stats.front_probability(values, better, np.random.default_rng(0), bounds=bounds)


def proxies(results: Sequence[Result], objectives: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for each objective that is a proxy: what if it were off by 35 %?

    Off by the same share for all, a proxy ranks as before. Here each candidate's may be off on
    its own, either way: which would not be sure of the front any more, and which might join it?
    """
    sentences = []
    before = front(results, objectives)
    labels = {r.candidate.key: r.candidate.label for r in results}
    for metric in objectives:
        kind = axis_kind(results, metric)
        if kind is None or kind[0] not in _STAND_INS or _is_predicted(metric, kind):
            continue
        after = front([_loosened(r, metric) for r in results], objectives)
        gained = sorted(labels[k] for k in set(after.members) - set(before.members))
        lost = sorted(labels[k] for k in set(before.members) - set(after.members))
        head = f"{METRICS[metric].title} is a {kind[0].value}. Off by 35 % either way"
        if not gained and not lost:
            sentences.append(f"{head}, candidate by candidate, the front would be the same.")
            continue
        parts = []
        if gained:
            parts.append(f"{_listed(gained)} might join the front")
        if lost:
            parts.append(f"{_listed(lost)} would owe {_their(lost)} place to it alone")
        sentences.append(f"{head}, candidate by candidate, {' and '.join(parts)}.")
    return tuple(sentences)


def _is_predicted(metric: str, kind: Kind | None) -> bool:
    """Return whether a metric was predicted without a device; what a device predicts is joules."""
    return kind is not None and kind[0] is Source.PREDICTED and METRICS[metric].unit != "J"


def _drawn(value: Value, length: int) -> Sequence[float]:
    assert value.value is not None
    return value.generations if len(value.generations) == length else (value.value,)


def _loosened(result: Result, metric: str) -> Result:
    value = result.values.get(metric)
    if value is None or value.value is None or value.source not in _STAND_INS:
        return result
    ends = sorted((value.value * (1 - PROXY_ERROR), value.value * (1 + PROXY_ERROR)))
    loose = dataclasses.replace(value, low=ends[0], high=ends[1])
    values: Mapping[str, Value] = {**result.values, metric: loose}
    return dataclasses.replace(result, values=values)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def _their(names: Sequence[str]) -> str:
    return "its" if len(names) == 1 else "their"
