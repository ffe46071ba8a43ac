"""Intel's and AMD's running average power limit counters, through Linux' powercap.

Sums the packages (``package-0`` and so on); ``dram`` adds the memory where it has a counter of
its own. The counters wrap around and are read by root alone unless someone allows it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from hwbench.meters._sensors import (
    Clock,
    Stopwatch,
    counted,
    read_number,
    read_text,
    unavailable,
)
from hwbench.protocols import EnergyMeter
from hwbench.records import EnergyReading
from hwbench.traits import MeterTraits

TRAITS = MeterTraits(requires={}, tier="counter")

_MEND = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (root only since CVE-2020-8694)"


@dataclass(frozen=True, slots=True)
class Options:
    """Which counters."""

    dram: bool = False
    """Whether to add the memory's own domain (servers have one)."""
    idle_watts: float | None = None
    """What the counters show on the idle machine, in watts, if it was measured."""
    most_watts: float = 1000.0
    """No domain draws more: bounds how long a window may be before a wrap-around is missed."""
    root: str = "/"
    """Where the files are read; a recorded tree for tests."""


class Rapl:
    """The energy counters of the CPU packages."""

    def __init__(self, options: Options, clock: Clock = time.perf_counter) -> None:
        """Take the options and a clock of wall seconds."""
        self._options = options
        self._watch = Stopwatch("rapl", clock)
        self._begun: dict[Path, float] = {}

    def start(self) -> None:
        """Read the counters. Raises `StageError` when there are none or they are not for us."""
        domains = self._domains()
        self._begun = {folder: _joules(folder) for folder in domains}
        self._watch.start()

    def stop(self, inferences: int) -> EnergyReading:
        """Return what all domains counted since `start`."""
        seconds = self._watch.stop()
        joules = sum(self._since(folder, begun, seconds) for folder, begun in self._begun.items())
        note = " + ".join(read_text("rapl", folder / "name") for folder in self._begun)
        return EnergyReading(
            counted("rapl", joules),
            inferences,
            seconds,
            self._options.idle_watts,
            "rapl",
            TRAITS.tier,
            note,
        )

    def _domains(self) -> list[Path]:
        top = Path(self._options.root) / "sys/class/powercap"
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it, counted in it already (dram is
        # not); intel-rapl-mmio:0 is the package a second time, and psys holds the packages.
        domains = []
        for folder in sorted(top.glob("intel-rapl:*")):
            name = read_text("rapl", folder / "name")
            if name.startswith("package") or (name == "dram" and self._options.dram):
                domains.append(folder)
        if not domains:
            why = f"{top} has no package counter"
            raise unavailable(
                "rapl", why, "virtual machines and ARM boards have none: another meter"
            )
        return domains

    def _since(self, folder: Path, begun: float, seconds: float) -> float:
        span = read_number("rapl", folder / "max_energy_range_uj", _MEND) * 1e-6
        if seconds * self._options.most_watts >= span:
            why = f"in {seconds:.0f} s the counter may wrap around unseen (it holds {span:.0f} J)"
            raise unavailable("rapl", why, "measure a shorter window (measure.energy_seconds)")
        ended = _joules(folder)
        return ended - begun if ended >= begun else ended - begun + span


def _joules(folder: Path) -> float:
    return read_number("rapl", folder / "energy_uj", _MEND) * 1e-6


PLUGIN: type[EnergyMeter] = Rapl
