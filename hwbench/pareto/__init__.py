"""Which candidates are on the front and meet the goals, and which to ship. Records in and out."""

from __future__ import annotations

from hwbench.pareto.decide import decide
from hwbench.pareto.front import Front, baseline, compare, dominates, front, usable
from hwbench.pareto.goals import meets
from hwbench.pareto.rivals import rivals

__all__ = [
    "Front",
    "baseline",
    "compare",
    "decide",
    "dominates",
    "front",
    "meets",
    "rivals",
    "usable",
]
