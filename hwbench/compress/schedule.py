"""When during recovery a model is pruned, and how far each time. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.errors import UserError, did_you_mean

SCHEDULES = ("oneshot", "linear", "cubic")

LAST = 2 / 3
"""Share of the recovery after which nothing more is pruned: the rest heals the final model."""


@dataclass(frozen=True, slots=True)
class Step:
    """Prune to ``sparsity`` when this share ``at`` (0..1) of the recovery is over."""

    at: float
    sparsity: float


def plan(schedule: str, steps: int, sparsity: float) -> tuple[Step, ...]:
    """Return the pruning steps, in order; the last one asks for `sparsity` exactly.

    ``oneshot`` prunes once, at the start. ``linear`` and ``cubic`` (Zhu & Gupta 2017: fast at
    first, slower as weights get scarce) spread `steps` steps over the first two thirds.
    Raises `UserError` for an unknown schedule or fewer than one step.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"no schedule {schedule!r}", mend=did_you_mean(schedule, SCHEDULES))
    if steps < 1:
        raise UserError(f"{steps} pruning steps", expected="at least one")
    if schedule == "oneshot" or steps == 1:
        return (Step(0.0, sparsity),)
    power = 3 if schedule == "cubic" else 1
    return tuple(
        Step(LAST * index / (steps - 1), sparsity * (1 - (1 - (index + 1) / steps) ** power))
        for index in range(steps)
    )
