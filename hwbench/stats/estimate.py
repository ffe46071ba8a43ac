"""From visit values to intervals: ratios to the reference and absolute levels.

Ratios and levels are estimated on logarithms, in two levels: inside a generation (one fresh
process each for candidate and reference) the quietest round of each, then the mean of the
generations. Only the second level says what another process would show, so only it sets the width.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hwbench.errors import StageError
from hwbench.records import Process
from hwbench.stats.theory import (
    fit_prior,
    hodges_lehmann,
    rounds_error,
    signed_rank_bounds,
    t_quantile,
)
from hwbench.stats.visits import paired, quietest, visit_values

PROCESS_SPREAD = 0.01
"""Standard deviation of ln(ratio) between processes that is assumed when only one was seen.

Identical code in two processes differs by about 1 % for good (measured for this project on a
shared x86 machine); a single generation cannot show it, so its intervals are widened by it.
"""

_MOST_WEIGHT = 4.0
"""Degrees of freedom that a session's spread counts for, at most, beside a candidate's own.

Without this limit 11 of 800 pairs of identical small models were told apart at 99 % (3 to 14
generations of two sessions of 30 models on a two-core machine, idle and loaded); with it 5.
"""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bounds, from so many generations and rounds (of all generations).

    ``error`` is the relative standard error (of the logarithm) behind the bounds and ``freedom``
    its degrees of freedom; both are None where the bounds are order statistics. ``assumed`` says
    that only one generation was there, so that `PROCESS_SPREAD` stands in for the spread between
    processes. Bounds may be 0 and infinity: one round bounds nothing.
    """

    estimate: float
    low: float
    high: float
    generations: int
    rounds: int
    error: float | None = None
    freedom: float | None = None
    assumed: bool = False

    @property
    def half_width(self) -> float:
        """Half the width on the logarithm: 0.01 reads as ±1 %. Infinite when unbounded."""
        if self.low <= 0.0 or math.isinf(self.high):
            return math.inf
        return (math.log(self.high) - math.log(self.low)) / 2.0

    @property
    def bounded(self) -> bool:
        """Whether both bounds are finite and above zero, so that they can be shown."""
        return math.isfinite(self.half_width)

    def at(self, confidence: float) -> Interval:
        """Return the same estimate with the bounds of another confidence.

        Exact for two generations and more; with a single one the bounds come from the normal
        distribution instead of the ranks. Raises `ValueError` where there is no ``error``.
        """
        if self.error is None or self.freedom is None:
            raise ValueError("order statistics cannot be re-scaled: compute them anew")
        low, high = _bounds(self.estimate, self.error, self.freedom, confidence)
        return Interval(
            self.estimate,
            low,
            high,
            self.generations,
            self.rounds,
            self.error,
            self.freedom,
            self.assumed,
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """How much one generation's ln(ratio) differs from the next, pooled over a measuring session.

    ``variance`` is the typical variance and ``weight`` the degrees of freedom it counts for
    beside a candidate's own; ``freedom`` is what the pooled figure itself rests on.
    """

    variance: float
    weight: float
    freedom: float


# --------------------------------------------------------------------------------------------
# one generation


def within(candidate: Process, reference: Process, confidence: float = 0.95) -> Interval:
    """Return the ratio inside one generation, for a look at whether more rounds are needed.

    The bounds are those of the signed-rank test over the rounds. They know nothing of the spread
    between processes: never a result, only a reason to stop. Raises `StageError` without a round
    in common.
    """
    groups = paired([candidate], [reference])
    if len(groups) != 1:
        raise StageError("measure", "the two processes share no generation with a common round")
    logs = next(iter(groups.values()))
    low, high = signed_rank_bounds(logs, confidence)
    error = rounds_error(logs)
    return Interval(
        math.exp(hodges_lehmann(logs)),
        math.exp(low),
        _exp(high),
        1,
        len(logs),
        error,
        math.inf if error is not None else None,
    )


# --------------------------------------------------------------------------------------------
# over generations


def ratio(
    candidate: Sequence[Process],
    reference: Sequence[Process],
    confidence: float = 0.95,
    spread: Spread | None = None,
) -> Interval:
    """Return the candidate's time over the reference's (below 1: faster), as an interval.

    A generation says ln(v_c / v_R), v being the least visit value of the rounds that both came
    through: what disturbs a program on a shared machine only ever adds to its time (Chen & Revels,
    "Robust benchmarking in noisy environments", 2016), and a visit value is a median of calls, so
    that no single lucky one decides. Mean and t-interval across generations (Kalibera & Jones,
    ISMM 2013). Visits are spread over the whole generation, candidates in turn, so that all have
    the same chance of a quiet moment.

    With 2 or 3 generations the t quantile is 12.7 or 4.3. ``spread`` (`pooled_spread` of the
    session) mends that: the candidate's own variance is shrunk towards the session's and gains
    its degrees of freedom (the moderated t of Smyth, SAGMB 3, 2004). It is right for a session on
    average; a candidate whose processes differ several times as much as the others' is bounded
    too tightly with 3 generations, so the one that wins is confirmed in fresh processes.

    With a single generation and no ``spread`` the signed-rank interval over its rounds is
    widened in quadrature by `PROCESS_SPREAD`, and the result is flagged ``assumed``.

    Raises `StageError` without a round in common.
    """
    groups = paired(candidate, reference)
    if not groups:
        raise StageError(
            "measure",
            "no round in which both the candidate and the reference were measured",
            mend="allow more time (measure.max_time) or look at why visits were dropped",
        )
    each = list(quietest(candidate, reference).values())
    return _two_level(each, list(groups.values()), confidence, spread)


def by_generation(candidate: Sequence[Process], reference: Sequence[Process]) -> dict[int, float]:
    """Return the ratio of each generation in which both were measured, by its number."""
    return {g: math.exp(log) for g, log in quietest(candidate, reference).items()}


def level(processes: Sequence[Process], confidence: float = 0.95) -> Interval:
    """Return the time of one call in seconds when nobody interrupts it.

    Two levels as in `ratio`, the least visit value of each process. This is the clean figure;
    `percentile` shows what was experienced. Raises `StageError` without a visit.
    """
    groups = [list(map(math.log, v.values())) for v in visit_values(processes).values() if v]
    if not groups:
        raise StageError("measure", "not a single visit was measured")
    return _two_level([min(logs) for logs in groups], groups, confidence, None)


def absolute(ratio_to: Interval, reference: Interval) -> Interval:
    """Return seconds per call from a ratio and the reference's `level`.

    The relative half-widths add in quadrature. Use it where a candidate was seen in fewer rounds
    than the reference; where both were seen throughout it agrees with `level`.
    """
    low = math.hypot(_gap(ratio_to.low, ratio_to.estimate), _gap(reference.low, reference.estimate))
    high = math.hypot(
        _gap(ratio_to.estimate, ratio_to.high), _gap(reference.estimate, reference.high)
    )
    estimate = ratio_to.estimate * reference.estimate
    return Interval(
        estimate,
        estimate * math.exp(-low),
        estimate * _exp(high),
        ratio_to.generations,
        ratio_to.rounds,
        assumed=ratio_to.assumed or reference.assumed,
    )


def pooled_spread(
    candidates: Iterable[Sequence[Process]], reference: Sequence[Process]
) -> Spread | None:
    """Return how generations differ in this session, pooled over its candidates (S included).

    None when no candidate has two generations. All candidates share the reference's processes,
    so their variances are correlated: with K candidates, equal spread of both processes makes
    the pooled figure worth 4K/(K+3) degrees of freedom per spare generation (Satterthwaite), not
    K. From 3 candidates on, the weight of the prior comes from how much the variances differ
    (Smyth 2004, moments of the logarithm). It is at most `_MOST_WEIGHT`, which it also is with
    fewer: the shared reference makes candidates look more alike than they are.
    """
    variances, freedoms = [], []
    for candidate in candidates:
        each = list(quietest(candidate, reference).values())
        variance = statistics.variance(each) if len(each) > 1 else 0.0
        if variance > 0.0:  # exactly 0 only where the candidate is the reference itself
            variances.append(variance)
            freedoms.append(len(each) - 1.0)
    if not variances:
        return None
    pooled = sum(v * d for v, d in zip(variances, freedoms, strict=True)) / sum(freedoms)
    freedom = sum(freedoms) * 4.0 / (len(variances) + 3.0)
    variance, weight = (pooled, math.inf) if len(variances) < 3 else fit_prior(variances, freedoms)
    return Spread(pooled if math.isinf(weight) else variance, min(weight, _MOST_WEIGHT), freedom)


# --------------------------------------------------------------------------------------------
# inside


def _two_level(
    each: Sequence[float],
    groups: Sequence[Sequence[float]],
    confidence: float,
    spread: Spread | None,
) -> Interval:
    """Combine one logarithm a generation (and its rounds') into an interval (see `ratio`)."""
    if len(each) == 1 and spread is None:
        return _one_generation(each[0], groups[0], confidence)
    sample_variance = statistics.variance(each) if len(each) > 1 else 0.0
    variance, freedom = _moderated(sample_variance, len(each) - 1.0, spread)
    error = math.sqrt(variance / len(each))
    estimate = math.exp(statistics.fmean(each))
    low, high = _bounds(estimate, error, freedom, confidence)
    return Interval(estimate, low, high, len(each), sum(map(len, groups)), error, freedom)


def _one_generation(log: float, rounds: Sequence[float], confidence: float) -> Interval:
    middle, error = hodges_lehmann(rounds), rounds_error(rounds)
    low, high = signed_rank_bounds(rounds, confidence)
    process = PROCESS_SPREAD * t_quantile(confidence, math.inf)
    return Interval(
        math.exp(log),
        math.exp(log - math.hypot(middle - low, process)),
        _exp(log + math.hypot(high - middle, process)),
        1,
        len(rounds),
        None if error is None else math.hypot(error, PROCESS_SPREAD),
        None if error is None else math.inf,
        assumed=True,
    )


def _moderated(
    sample_variance: float, freedom: float, spread: Spread | None
) -> tuple[float, float]:
    """Shrink a candidate's variance towards the session's; returns variance and freedom."""
    if spread is None:
        return sample_variance, freedom
    total = spread.weight + freedom
    variance = (spread.weight * spread.variance + freedom * sample_variance) / total
    return variance, min(total, max(spread.freedom, freedom))


def _bounds(
    estimate: float, error: float, freedom: float, confidence: float
) -> tuple[float, float]:
    half = error * t_quantile(confidence, freedom) if error else 0.0
    return estimate * math.exp(-half), estimate * _exp(half)


def _gap(low: float, high: float) -> float:
    """Return ln(high / low), infinite where a bound is not there."""
    return math.inf if low <= 0.0 or math.isinf(high) else math.log(high / low)


def _exp(value: float) -> float:
    """Return e to a value that may be large, as infinity instead of an error."""
    return math.exp(value) if value < 700.0 else math.inf
