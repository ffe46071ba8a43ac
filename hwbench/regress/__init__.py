"""The room that holds tonight against before: pure functions on numbers and intervals.

`judge` says what one session shows, `conclude` what two sessions of a night do, `creep` what
many nights do.
"""

from hwbench.regress.creep import Shift, change_points, creep, crept, noise, pooled
from hwbench.regress.judge import FLOORS, conclude, judge, paired_chance

__all__ = [
    "FLOORS",
    "Shift",
    "change_points",
    "conclude",
    "creep",
    "crept",
    "judge",
    "noise",
    "paired_chance",
    "pooled",
]
