"""Tail percentiles, as experienced, and only from enough calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.records import Process
from hwbench.stats.estimate import Interval


def calls_needed(q: float) -> int:
    """Return how many calls a percentile needs: p90 64, p95 130, p99 662.

    MLPerf's early-stopping rule: so many that at most 1 call above the percentile would be a
    1 % coincidence. Raises `ValueError` unless 0 < q < 1.
    """
    if not 0.0 < q < 1.0:
        raise ValueError(f"a percentile lies between 0 and 1, not at {q}")
    calls = 1
    while q**calls + calls * (1.0 - q) * q ** (calls - 1) > 0.01:
        calls += 1
    return calls


def percentile(
    processes: Sequence[Process], q: float, confidence: float = 0.95, *, clean: bool = False
) -> Interval | None:
    """Return a percentile of the time of one call in seconds, or None with too few calls.

    From all calls, as experienced; ``clean`` leaves out those with an involuntary context
    switch. The bounds are order statistics (binomial), which need no distribution but take the
    calls as independent. `calls_needed` says how many are enough.
    """
    from scipy.special import bdtr

    visits = [visit for process in processes for visit in process.visits]
    calls = np.sort(
        [
            seconds
            for visit in visits
            for seconds, switches in zip(visit.wall, visit.switches, strict=True)
            if not (clean and switches)
        ]
    )
    if len(calls) < calls_needed(q):
        return None
    below = bdtr(np.arange(len(calls)), len(calls), q)  # P(at most k calls below the percentile)
    tail = (1.0 - confidence) / 2.0
    rank_low = int(np.searchsorted(below, tail, side="right"))  # so many ranks may be given up
    rank_high = int(np.searchsorted(below, 1.0 - tail, side="left")) + 1
    if rank_low < 1 or rank_high > len(calls):
        return None
    return Interval(
        float(np.quantile(calls, q)),
        float(calls[rank_low - 1]),
        float(calls[rank_high - 1]),
        len({process.generation for process in processes}),
        len(visits),
    )
