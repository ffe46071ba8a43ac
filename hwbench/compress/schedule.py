"""When during recovery a model is pruned, and how far each time. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.errors import UserError, did_you_mean
from hwbench.records import LAST, SCHEDULES, Schedule


@dataclass(frozen=True, slots=True)
class Step:
    """Prune to ``sparsity`` when this share ``at`` (0..1) of the recovery is over."""

    at: float
    sparsity: float


def plan(
    schedule: Schedule, steps: int, sparsity: float, begin: float = 0.0, end: float = LAST
) -> tuple[Step, ...]:
    """Return the pruning steps, in order; the last one asks for `sparsity` exactly.

    ``oneshot`` (and ``scratch``) prune once, at `begin`; the others spread `steps` steps from
    `begin` to `end`: ``linear`` by equal shares of the dense weights, ``cubic`` fast at first and
    slower as weights get scarce (Zhu & Gupta 2017, "To prune, or not to prune"), and ``iterative``
    by equal shares of the weights that are left (Han et al. 2015). ``lottery`` and
    ``lr_rewinding`` train between their steps; those, too, take equal shares of what is left
    (Frankle & Carbin 2019).

    Raises `UserError` for an unknown schedule, fewer than one step, or bounds out of order.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"no schedule {schedule!r}", mend=did_you_mean(schedule, SCHEDULES))
    if steps < 1:
        raise UserError(f"{steps} pruning steps", expected="at least one")
    if not 0 <= begin <= end <= 1:
        raise UserError(
            f"a schedule from {begin:g} to {end:g} of the recovery", expected="0 ≤ begin ≤ end ≤ 1"
        )
    if not SCHEDULES[schedule].stepwise or steps == 1:
        return (Step(begin, sparsity),)
    return tuple(
        Step(
            begin + (end - begin) * index / (steps - 1),
            _share(schedule, index + 1, steps, sparsity),
        )
        for index in range(steps)
    )


def _share(schedule: str, step: int, steps: int, sparsity: float) -> float:
    """Return the sparsity after `step` of `steps` steps."""
    if step == steps:
        return sparsity  # exactly, whatever the rounding of powers
    if schedule in ("linear", "cubic"):
        return sparsity * (1 - (1 - step / steps) ** (3 if schedule == "cubic" else 1))
    return float(1 - (1 - sparsity) ** (step / steps))
