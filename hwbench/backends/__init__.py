"""Runtimes, one file each: the host half compiles, the device half loads and runs."""

from __future__ import annotations

from hwbench import registry


def precisions(kind: str) -> tuple[str, ...]:
    """Return the number formats that a backend takes: its module's ``PRECISIONS``, or fp32."""
    found: tuple[str, ...] = getattr(registry.module("backends", kind), "PRECISIONS", ("fp32",))
    return found
