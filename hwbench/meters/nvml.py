"""An NVIDIA GPU's energy counter, through NVML (Volta and later).

The counter moves about every 100 ms, so that windows of less than 10 s are off by more than 1 %.
It counts the whole board, whoever uses it, and not the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from hwbench.conditions import nvml
from hwbench.meters._sensors import Clock, Stopwatch, counted, unavailable
from hwbench.protocols import EnergyMeter
from hwbench.records import EnergyReading, Gpu
from hwbench.traits import MeterTraits


def _from_gpu(gpu: Gpu) -> Mapping[str, Any]:
    return {"gpu": gpu.which}


TRAITS = MeterTraits(requires={}, tier="counter", from_gpu=_from_gpu)

_UPDATE = 0.1
_SHORTEST = 10.0


class Counter(Protocol):
    """A GPU, as far as its energy goes."""

    def energy(self) -> float:
        """Return the joules counted so far; raises `nvml.NvmlError`."""


Open = Callable[[str], AbstractContextManager[Counter]]


@dataclass(frozen=True, slots=True)
class Options:
    """Which GPU, and what it draws when idle."""

    gpu: str = "any"
    """Its UUID or number; ``any``: the only one. A target's own ``gpu`` wins."""
    idle_watts: float | None = None
    """What the counter shows on the idle GPU, in watts; None: see ``idle_seconds``."""
    idle_seconds: float = 2.0
    """How long the idle GPU is counted before anything is loaded; 0: not at all."""


class Nvml:
    """The total energy counter of one GPU."""

    def __init__(
        self, options: Options, clock: Clock = time.perf_counter, library: Open = nvml.opened
    ) -> None:
        """Take the options, a clock of wall seconds and what opens a GPU."""
        self._options = options
        self._clock = clock
        self._watch = Stopwatch("nvml", clock)
        self._open = library
        self._begun = 0.0
        self._idle = options.idle_watts

    def settle(self) -> None:
        """Count what the GPU draws now, before anything of ours is on it."""
        seconds = self._options.idle_seconds
        if self._idle is not None or seconds <= 0:
            return
        begun, joules = self._clock(), self._joules()
        time.sleep(seconds)
        self._idle = (self._joules() - joules) / (self._clock() - begun)

    def start(self) -> None:
        """Read the GPU. Raises `StageError` without driver, GPU or counter."""
        self._begun = self._joules()
        self._watch.start()

    def stop(self, inferences: int) -> EnergyReading:
        """Return what the GPU counted since `start`."""
        seconds = self._watch.stop()
        joules = counted("nvml", self._joules() - self._begun)
        note = f"GPU {self._options.gpu}, the whole board"
        if seconds < _SHORTEST:
            note += f"; ±{_UPDATE / seconds * 100:.0f} %: a window of {seconds:.1f} s, 10 s are due"
        return EnergyReading(joules, inferences, seconds, self._idle, "nvml", TRAITS.tier, note)

    def _joules(self) -> float:
        try:
            with self._open(self._options.gpu) as gpu:
                return gpu.energy()
        except nvml.NvmlError as error:
            raise unavailable("nvml", str(error), "does nvidia-smi run here?") from error


PLUGIN: type[EnergyMeter] = Nvml
