"""The INA3221 power monitors of Jetson boards, through hwmon: volts times amperes, sampled.

``VDD_IN`` is what the whole module takes in (Orin Nano and NX, Xavier NX). AGX boards have no
such rail: name all of theirs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from hwbench.meters._sensors import (
    Clock,
    PowerSampler,
    Stopwatch,
    counted,
    read_number,
    read_text,
    unavailable,
)
from hwbench.protocols import EnergyMeter
from hwbench.records import EnergyReading
from hwbench.traits import MeterTraits

TRAITS = MeterTraits(requires={}, tier="meter")


@dataclass(frozen=True, slots=True)
class Options:
    """Which rails, and how often."""

    rails: tuple[str, ...] = ("VDD_IN",)
    """The rails to add up, by their labels; a rail inside another must not be named beside it."""
    period: float = 0.1
    """Seconds between samples."""
    idle_watts: float | None = None
    """What the rails show on the idle board, in watts, if it was measured."""
    root: str = "/"
    """Where the files are read; a recorded tree for tests."""


class Ina3221:
    """The sum of some rails' power."""

    def __init__(self, options: Options, clock: Clock = time.perf_counter) -> None:
        """Take the options and a clock of wall seconds."""
        self._options = options
        self._watch = Stopwatch("ina3221", clock)
        self._channels: list[tuple[Path, str]] = []
        self._sampler = PowerSampler(self._watts, options.period, clock)

    def start(self) -> None:
        """Find the rails and begin. Raises `StageError` when a rail is missing or unreadable."""
        rails = self._rails()
        required = list(self._options.rails)
        missing = [rail for rail in required if rail not in rails]
        if missing or not required:
            why = (
                f"no rail {', '.join(missing) or 'was named'} (found: {', '.join(rails) or 'none'})"
            )
            raise unavailable("ina3221", why, "name the board's rails in the meter's options")
        self._channels = [rails[rail] for rail in required]
        self._watch.start()
        self._sampler.start()

    def stop(self, inferences: int) -> EnergyReading:
        """Return the integral of the rails' power since `start`."""
        joules, samples = self._sampler.stop()
        seconds = self._watch.stop()
        note = f"{' + '.join(self._options.rails)}, {samples} samples"
        idle = self._options.idle_watts
        joules = counted("ina3221", joules)
        return EnergyReading(joules, inferences, seconds, idle, "ina3221", TRAITS.tier, note)

    def _rails(self) -> dict[str, tuple[Path, str]]:
        """Return the folder and channel number of every rail that has a label."""
        rails: dict[str, tuple[Path, str]] = {}
        for name in sorted((Path(self._options.root) / "sys/class/hwmon").glob("hwmon*/name")):
            if read_text("ina3221", name) == "ina3221":
                for label in sorted(name.parent.glob("in[0-9]_label")):
                    rails[read_text("ina3221", label)] = (name.parent, label.name[2])
        return rails

    def _watts(self) -> float:
        return sum(
            read_number("ina3221", folder / f"in{channel}_input")
            * read_number("ina3221", folder / f"curr{channel}_input")
            * 1e-6  # mV times mA
            for folder, channel in self._channels
        )


PLUGIN: type[EnergyMeter] = Ina3221
