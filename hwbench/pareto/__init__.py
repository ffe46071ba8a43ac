"""Who is on the front, who meets the goals, and which model to ship. Pure: records in and out."""

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
