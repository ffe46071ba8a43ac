"""A simulated sitting with known truth: what the statistics are calibrated on.

The noise is that of a shared two-core machine: every process has its own offset for good (about
1 %), neighbours slow the whole machine down for some rounds and let it go again, calls scatter a
little and some are preempted. A preempted call shows an involuntary switch, except for a few that
a hypervisor hides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.records import Process, Visit


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations are of the logarithm; shares are of calls."""

    process: float = 0.01
    drift: float = 0.02
    round: float = 0.006
    call: float = 0.01
    preempted: float = 0.08
    hidden: float = 0.01
    stolen: float = 3.0
    """A preempted call takes up to so many times as long on top."""


QUIET = Noise(process=0.0, drift=0.0, round=0.0, call=0.0, preempted=0.0, hidden=0.0)


def sitting(
    rng: np.random.Generator,
    times: Sequence[float],
    *,
    generations: int = 3,
    rounds: int = 12,
    calls: int = 5,
    noise: Noise = Noise(),
    offsets: dict[tuple[int, int], float] | None = None,
) -> list[list[Process]]:
    """Return the processes of candidates whose calls take `times` seconds, first the reference.

    ``offsets`` plants an offset (of the logarithm) on (candidate, generation).
    """
    found: list[list[Process]] = [[] for _ in times]
    drift = 0.0
    for generation in range(generations):
        process = rng.normal(0.0, noise.process, len(times))
        for (candidate, planted), size in (offsets or {}).items():
            if planted == generation:
                process[candidate] += size
        visits: list[list[Visit]] = [[] for _ in times]
        for index in range(rounds):
            # Neighbours only ever add, and go away.
            drift = abs(0.7 * drift + rng.normal(0.0, noise.drift))
            for order, candidate in enumerate(rng.permutation(len(times)).tolist()):
                shift = drift + process[candidate] + rng.normal(0.0, noise.round)
                visits[candidate].append(
                    _visit(rng, index, order, times[candidate] * math.exp(shift), calls, noise)
                )
        for candidate in range(len(times)):
            role = "candidate" if candidate else "reference"
            found[candidate].append(
                Process(f"a{candidate}", role, generation, 0.0, 0.0, 0, tuple(visits[candidate]))
            )
    return found


def _visit(
    rng: np.random.Generator, index: int, order: int, seconds: float, calls: int, noise: Noise
) -> Visit:
    scatter = np.exp(np.abs(rng.normal(0.0, noise.call, calls)))
    fate = rng.random(calls)
    hit = fate < noise.preempted + noise.hidden
    wall = seconds * (scatter + hit * rng.random(calls) * noise.stolen)
    switches = fate < noise.preempted
    return Visit(
        index,
        order,
        tuple(wall.tolist()),
        tuple(wall.tolist()),
        tuple(switches.astype(int).tolist()),
    )
