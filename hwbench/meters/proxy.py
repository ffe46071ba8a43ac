"""Energy from CPU time and the profile's watts: a proxy, good for ranking and nothing else.

Gross joules = idle watts x wall seconds + core watts x CPU seconds of this process (all threads).
What the target's profile calls ``per_core`` is what one busy core adds to the idle draw. Against
RAPL such figures are off by a third on average, and they see neither memory nor the GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwbench.meters._sensors import Clock, Stopwatch, counted, unavailable
from hwbench.protocols import EnergyMeter
from hwbench.records import EnergyReading, Power
from hwbench.traits import MeterTraits


def _from_power(power: Power) -> Mapping[str, Any]:
    return {
        "idle_watts": power.idle_watts,
        "core_watts": power.core_watts,
        "source": power.source,
    }


TRAITS = MeterTraits(requires={}, tier="proxy", needs=("power",), from_power=_from_power)


@dataclass(frozen=True, slots=True)
class Options:
    """Where the watts come from; a target's ``power`` fills them in."""

    core_watts: float | None = None
    """What a busy core draws on top of idle, in watts."""
    idle_watts: float | None = None
    """What the idle device draws, in watts; unknown: only what the cores add is counted."""
    source: str = ""
    """Who says so, for the report."""


class Proxy:
    """CPU seconds times watts."""

    def __init__(
        self,
        options: Options,
        clock: Clock = time.perf_counter,
        cpu_clock: Clock = time.process_time,
    ) -> None:
        """Take the figures, and the clocks of wall and of CPU seconds."""
        self._options = options
        self._watch = Stopwatch("proxy", clock)
        self._cpu_clock = cpu_clock
        self._cpu = 0.0

    def start(self) -> None:
        """Begin to count. Raises `StageError` without a positive ``core_watts``."""
        for name in ("core_watts", "idle_watts"):
            watts = getattr(self._options, name)
            if watts is not None and not (math.isfinite(watts) and watts >= 0.0):
                raise unavailable("proxy", f"{name} is {watts}")
        if not self._options.core_watts:
            why = "the target says no watts per core"
            raise unavailable("proxy", why, "give power.per_core, with its source, in the target")
        self._watch.start()
        self._cpu = self._cpu_clock()

    def stop(self, inferences: int) -> EnergyReading:
        """Return the joules that the CPU seconds since `start` stand for."""
        cpu = self._cpu_clock() - self._cpu
        seconds = self._watch.stop()
        idle, core = self._options.idle_watts, self._options.core_watts or 0.0
        joules = counted("proxy", core * cpu + (idle or 0.0) * seconds)
        note = f"{cpu:.3g} CPU seconds at {core:g} W"
        note += f", idle {idle:g} W" if idle is not None else ", without what idles"
        note += f" ({self._options.source})" if self._options.source else ""
        return EnergyReading(joules, inferences, seconds, idle, "proxy", TRAITS.tier, note)


PLUGIN: type[EnergyMeter] = Proxy
