"""What to try: a recipe and a target in, the candidates out, and the space they span. Pure."""

from __future__ import annotations

from hwbench.search.plan import left_out, plan, shared_backends
from hwbench.search.space import costs_of, points

__all__ = ["costs_of", "left_out", "plan", "points", "shared_backends"]
