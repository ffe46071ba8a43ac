"""The Raspberry Pi 5's power chip: volts and amperes of its rails, sampled with vcgencmd.

The rails leave out what USB devices and the converters take. The wall is approximated by
1.1451 x (sum of V x I) + 0.5879 W, a line fitted by Jan Fikar to a wall meter
(https://github.com/jfikar/RPi5-power). Each reading starts a process, which is in the figure.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from hwbench.meters._sensors import Clock, PowerSampler, Stopwatch, counted, unavailable
from hwbench.protocols import EnergyMeter
from hwbench.records import EnergyReading
from hwbench.traits import MeterTraits

TRAITS = MeterTraits(requires={}, tier="meter")

_SLOPE = 1.1451
_OFFSET_WATTS = 0.5879


@dataclass(frozen=True, slots=True)
class Options:
    """How often, and what is known."""

    period: float = 0.25
    """Seconds between samples."""
    idle_watts: float | None = None
    """What the formula shows on the idle board, in watts, if it was measured."""
    root: str = "/"
    """Where usr/bin/vcgencmd lies; a recorded tree for tests."""


class Pi5Pmic:
    """The wall power that the rails of a Raspberry Pi 5 let expect."""

    def __init__(self, options: Options, clock: Clock = time.perf_counter) -> None:
        """Take the options and a clock of wall seconds."""
        self._options = options
        self._watch = Stopwatch("pi5_pmic", clock)
        self._sampler = PowerSampler(self._watts, options.period, clock)

    def start(self) -> None:
        """Begin. Raises `StageError` where there is no vcgencmd or no power chip."""
        self._watch.start()
        self._sampler.start()

    def stop(self, inferences: int) -> EnergyReading:
        """Return the integral of the approximated wall power since `start`."""
        joules, samples = self._sampler.stop()
        seconds = self._watch.stop()
        note = f"wall approximated from the rails, {samples} samples"
        idle = self._options.idle_watts
        joules = counted("pi5_pmic", joules)
        return EnergyReading(joules, inferences, seconds, idle, "pi5_pmic", TRAITS.tier, note)

    def _watts(self) -> float:
        command = Path(self._options.root) / "usr/bin/vcgencmd"
        try:
            done = subprocess.run(
                [str(command), "pmic_read_adc"],
                capture_output=True,
                text=True,
                timeout=5.0,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = f"{command} does not run ({error})"
            raise unavailable(
                "pi5_pmic", why, "only a Raspberry Pi 5 has this power chip"
            ) from error
        rails = rail_watts(done.stdout) if done.returncode == 0 else 0.0
        if rails <= 0.0:
            output = (done.stdout or done.stderr).strip()[:80]
            raise unavailable(
                "pi5_pmic",
                f"vcgencmd pmic_read_adc says {output!r}",
                "only a Raspberry Pi 5 has this power chip",
            )
        return _SLOPE * rails + _OFFSET_WATTS


def rail_watts(text: str) -> float:
    """Return the sum of volts times amperes over the rails that show both; 0 without any."""
    readings = re.findall(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=([\d.]+)[AV]\s*$", text, re.M)
    amperes = {rail: float(number) for rail, unit, number in readings if unit == "A"}
    volts = {rail: float(number) for rail, unit, number in readings if unit == "V"}
    return sum(current * volts[rail] for rail, current in amperes.items() if rail in volts)


PLUGIN: type[EnergyMeter] = Pi5Pmic
