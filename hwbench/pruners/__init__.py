"""Pruners, one file per pattern family."""

from __future__ import annotations

from hwbench.errors import UserError
from hwbench.registry import PRUNERS


def for_pattern(pattern: str) -> str:
    """Return the name of the pruner that makes a pattern (``2:4``, ``channel``, ``4x1``, ...).

    Raises `UserError` when no registered pruner does.
    """
    for name in PRUNERS.kinds():
        if PRUNERS.traits(name).accepts(pattern):
            return name
    known = [p for name in PRUNERS.kinds() for p in PRUNERS.traits(name).patterns]
    raise UserError(
        f"no pruner makes the pattern {pattern!r}",
        expected=f"one of, or such as: {', '.join(known)}",
    )
