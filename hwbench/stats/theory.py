"""The textbook pieces under the estimates: ranks, quantiles and a prior for variances."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

_EXACT_ROUNDS = 200


def hodges_lehmann(values: Sequence[float]) -> float:
    """Return the one-sample Hodges-Lehmann estimate: the median of all pairwise means.

    Each value is also paired with itself. Raises `ValueError` when there are no values.
    Hodges & Lehmann, "Estimates of location based on rank tests", Ann. Math. Stat. 34, 1963.
    """
    if not len(values):
        raise ValueError("no values to estimate from")
    return float(np.median(walsh(values)))


def walsh(values: Sequence[float]) -> np.ndarray:
    """Return the n(n+1)/2 means of all pairs of values, each value also with itself."""
    array = np.asarray(values, dtype=np.float64)
    first, second = _pairs(len(array))
    averages: np.ndarray = (array[first] + array[second]) / 2.0
    return averages


@functools.lru_cache(maxsize=32)
def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n)


@functools.lru_cache(maxsize=256)
def ranks_to_drop(n: int, tail: float) -> int:
    """Return how many Walsh averages to drop at each end so that P(outside) <= tail; 0: none.

    Exact distribution of the signed-rank statistic up to 200 values, normal beyond.
    """
    total = n * (n + 1) // 2
    if n > _EXACT_ROUNDS:
        sd = math.sqrt(n * (n + 1) * (2 * n + 1) / 24.0)
        return math.floor(total / 2.0 - t_quantile(1.0 - 2.0 * tail, math.inf) * sd)
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    for rank in range(1, n + 1):
        ways[rank:] += ways[:-rank].copy()
    return int(np.searchsorted(np.cumsum(ways) / 2.0**n, tail, side="right"))


def signed_rank_bounds(logs: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the bounds that the signed-rank test of the rounds does not reject.

    With too few rounds for the confidence (fewer than 6 for 95 %) those of Student's t; a single
    round bounds nothing.
    """
    drop = ranks_to_drop(len(logs), (1.0 - confidence) / 2.0)
    if drop:
        averages = np.sort(walsh(logs))
        return float(averages[drop - 1]), float(averages[-drop])
    error = rounds_error(logs)
    if error is None:
        return -math.inf, math.inf
    half = error * t_quantile(confidence, len(logs) - 1.0)
    mean = hodges_lehmann(logs)
    return mean - half, mean + half


def rounds_error(logs: Sequence[float]) -> float | None:
    """Return the standard error that the rounds of one generation show; None from one round."""
    if len(logs) < 2:
        return None
    drop = ranks_to_drop(len(logs), 0.025)
    if not drop:
        return float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    averages = np.sort(walsh(logs))
    return float(averages[-drop] - averages[drop - 1]) / (2.0 * t_quantile(0.95, math.inf))


def t_quantile(confidence: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t (of the normal for infinite freedom)."""
    from scipy.special import ndtri, stdtrit

    p = (1.0 + confidence) / 2.0
    return float(ndtri(p) if math.isinf(freedom) else stdtrit(freedom, p))


def fit_prior(variances: Sequence[float], freedoms: Sequence[float]) -> tuple[float, float]:
    """Return the typical variance and its weight in degrees of freedom, from at least two.

    The moments of the logarithm under a scaled F distribution; the weight is infinite where the
    variances differ no more than chance lets them. Smyth, "Linear models and empirical Bayes
    methods", Stat. Appl. Genet. Mol. Biol. 3, 2004, section 6.2.
    """
    from scipy.special import digamma, polygamma

    half = np.asarray(freedoms) / 2.0
    logs = np.log(np.asarray(variances)) - digamma(half) + np.log(half)
    excess = float(np.var(logs, ddof=1) - np.mean(polygamma(1, half)))
    if excess <= 0.0:
        return float(np.exp(np.mean(logs))), math.inf
    weight = 2.0 * _inverse_trigamma(excess)
    mean = np.mean(logs) + digamma(weight / 2.0) - math.log(weight / 2.0)
    return float(np.exp(mean)), weight


def _inverse_trigamma(value: float) -> float:
    """Return x > 0 with trigamma(x) = value, by Newton's method (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1.0 / value
    for _ in range(50):
        slope = float(polygamma(1, x))
        step = slope * (1.0 - slope / value) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x
