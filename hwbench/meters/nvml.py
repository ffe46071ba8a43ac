"""An NVIDIA GPU's energy counter, through NVML (Volta and later).

The counter moves about every 100 ms, so that windows of less than 10 s are off by more than 1 %.
It counts the whole board, whoever uses it, and not the host.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from typing import Any, Literal

from hwbench.meters._sensors import Clock, Stopwatch, counted, unavailable
from hwbench.protocols import EnergyMeter
from hwbench.records import EnergyReading

REQUIRES = {"pynvml": "nvidia-ml-py>=12"}

_UPDATE = 0.1
_SHORTEST = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """Which GPU."""

    index: int = 0
    """The GPU's number, as nvidia-smi counts them."""
    idle_watts: float | None = None
    """What the counter shows on the idle GPU, in watts, if it was measured."""


class Nvml:
    """The total energy counter of one GPU."""

    tier: Literal["meter", "counter", "model", "proxy"] = "counter"

    def __init__(
        self, options: Options, clock: Clock = time.perf_counter, library: Any = None
    ) -> None:
        """Take the options, a clock of wall seconds and what answers for the module pynvml."""
        self._options = options
        self._watch = Stopwatch("nvml", clock)
        self._library = library
        self._begun = 0.0

    def start(self) -> None:
        """Open the GPU and read it. Raises `StageError` without library, driver, GPU or counter."""
        if self._library is None:
            try:
                self._library = importlib.import_module("pynvml")
            except ImportError as error:
                why = "nvidia-ml-py is not installed"
                raise unavailable("nvml", why, f"pip install '{REQUIRES['pynvml']}'") from error
        self._begun = self._joules()
        self._watch.start()

    def stop(self, inferences: int) -> EnergyReading:
        """Return what the GPU counted since `start`."""
        seconds = self._watch.stop()
        joules = counted("nvml", self._joules() - self._begun)
        note = f"GPU {self._options.index}, the whole board"
        if seconds < _SHORTEST:
            note += f"; ±{_UPDATE / seconds * 100:.0f} %: a window of {seconds:.1f} s, 10 s are due"
        idle = self._options.idle_watts
        return EnergyReading(joules, inferences, seconds, idle, "nvml", self.tier, note)

    def _joules(self) -> float:
        library = self._library
        try:
            library.nvmlInit()  # counted by NVML: any number of times is fine
            try:
                handle = library.nvmlDeviceGetHandleByIndex(self._options.index)
                return float(library.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3
            finally:
                library.nvmlShutdown()
        except library.NVMLError as error:
            raise unavailable("nvml", f"NVML says: {error}", "does nvidia-smi run here?") from error


PLUGIN: type[EnergyMeter] = Nvml
