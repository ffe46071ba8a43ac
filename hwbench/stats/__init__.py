"""Statistics of a measuring session: pure functions on the raw records, derived anew each time.

Every estimate is an `Interval`: a ratio to the reference or an absolute level, with bounds that
count the *process* as the sampling unit (Kalibera & Jones, "Rigorous benchmarking in reasonable
time", ISMM 2013). `hwbench.stats.estimate` makes intervals, `hwbench.stats.decide` draws
conclusions from them. The clock and the random source never come from here.
"""

from hwbench.stats.decide import (
    Look,
    Verdict,
    beyond,
    detectable,
    eliminated,
    front_probability,
    holm,
    look,
    p_value,
    struck,
    verdict,
    verdicts,
)
from hwbench.stats.estimate import (
    PROCESS_SPREAD,
    Interval,
    Spread,
    absolute,
    by_generation,
    level,
    pooled_spread,
    ratio,
    within,
)
from hwbench.stats.paired import Difference, difference
from hwbench.stats.tails import calls_needed, percentile
from hwbench.stats.theory import hodges_lehmann, t_quantile
from hwbench.stats.visits import visit_value
from hwbench.stats.volume import WORST, costs_of, hypervolume, nondominated, ruled

__all__ = [
    "PROCESS_SPREAD",
    "WORST",
    "Difference",
    "Interval",
    "Look",
    "Spread",
    "Verdict",
    "absolute",
    "beyond",
    "by_generation",
    "calls_needed",
    "costs_of",
    "detectable",
    "difference",
    "eliminated",
    "front_probability",
    "hodges_lehmann",
    "holm",
    "hypervolume",
    "level",
    "look",
    "nondominated",
    "p_value",
    "percentile",
    "pooled_spread",
    "ratio",
    "ruled",
    "struck",
    "t_quantile",
    "verdict",
    "verdicts",
    "visit_value",
    "within",
]
