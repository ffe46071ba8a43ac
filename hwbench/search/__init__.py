"""What to try: a recipe and a target in, the candidates out, and the space they span. Pure."""

from __future__ import annotations

from hwbench.search.knapsack import allot
from hwbench.search.plan import left_out, plan, shared_backends
from hwbench.search.space import points

__all__ = ["allot", "left_out", "plan", "points", "shared_backends"]
