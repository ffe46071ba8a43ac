"""Pruners, one file per pattern family."""

from __future__ import annotations

from hwbench import registry
from hwbench.errors import UserError


def for_pattern(pattern: str) -> str:
    """Return the name of the pruner that makes a pattern (``2:4``, ``channel``, ``4x1``, ...).

    Raises `UserError` when no registered pruner does.
    """
    for name in registry.names("pruners"):
        if registry.module("pruners", name).PLUGIN.accepts(pattern):
            return name
    raise UserError(
        f"no pruner makes the pattern {pattern!r}",
        expected="channel, filter, neuron, mlp, head, depth, unstructured, N:M such as 2:4, or "
        "NxM such as 4x1",
    )
