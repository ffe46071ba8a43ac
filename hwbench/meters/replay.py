"""Plays a recorded power trace: openly a test double, for runs without any meter.

The file is JSON: ``{"tier": "counter", "idle_watts": 1.5, "power": [[0.0, 3.2], [0.1, 3.4]]}``,
pairs of seconds and watts. Each window plays on where the last one ended, from the beginning
again after the end, and integrates the trace over as much time as passed.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from hwbench.meters._sensors import Clock, Stopwatch, counted, read_text, trapezoids, unavailable
from hwbench.protocols import EnergyMeter
from hwbench.records import EnergyReading
from hwbench.traits import MeterTraits, Tier

TRAITS = MeterTraits(requires={}, tier="proxy")

_TIERS = get_args(Tier)


@dataclass(frozen=True, slots=True)
class Options:
    """What to play."""

    file: Path
    """The recorded trace; in a target, relative to its folder."""


class Replay:
    """A recorded trace instead of a meter."""

    def __init__(self, options: Options, clock: Clock = time.perf_counter) -> None:
        """Take the options and a clock of wall seconds."""
        self._file = Path(options.file)
        self._watch = Stopwatch("replay", clock)
        self._played = 0.0
        self._samples: list[tuple[float, float]] = []
        self._idle: float | None = None
        self._tier = TRAITS.tier

    def start(self) -> None:
        """Read the trace and begin. Raises `StageError` when it cannot be read."""
        try:
            trace = json.loads(read_text("replay", self._file))
            self._load(trace)
        except (ValueError, KeyError, TypeError) as error:
            raise unavailable("replay", f"{self._file} is not a power trace ({error})") from error
        self._watch.start()

    def stop(self, inferences: int) -> EnergyReading:
        """Return the joules of the trace over as many seconds as passed."""
        seconds = self._watch.stop()
        joules = self._until(self._played + seconds) - self._until(self._played)
        self._played += seconds
        note = f"replayed from {self._file.name}: recorded, not measured here"
        joules = counted("replay", joules)
        return EnergyReading(joules, inferences, seconds, self._idle, "replay", self._tier, note)

    def _load(self, trace: dict[str, Any]) -> None:
        samples = [(float(second), float(watts)) for second, watts in trace["power"]]
        times = [second for second, _ in samples]
        if len(times) < 2 or any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError("two samples at least, in the order of time")
        self._tier = trace.get("tier", "proxy")
        if self._tier not in _TIERS:
            raise ValueError(f"tier {self._tier!r} is none of {', '.join(_TIERS)}")
        idle = trace.get("idle_watts")
        self._idle = None if idle is None else float(idle)
        self._samples = [(second - times[0], watts) for second, watts in samples]

    def _until(self, moment: float) -> float:
        """Return the joules from the beginning of the trace to a moment, wound round its end."""
        length = self._samples[-1][0]
        rounds, rest = divmod(moment, length)
        past = [sample for sample in self._samples if sample[0] <= rest]
        following = self._samples[min(len(past), len(self._samples) - 1)]
        last = past[-1]
        if following[0] > last[0]:
            share = (rest - last[0]) / (following[0] - last[0])
            past = [*past, (rest, last[1] + share * (following[1] - last[1]))]
        joules = rounds * trapezoids(self._samples) + trapezoids(past)
        return joules if math.isfinite(joules) else 0.0


PLUGIN: type[EnergyMeter] = Replay
