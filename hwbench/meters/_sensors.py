"""Reading a sensor, or saying why it cannot be read. Not a plug-in."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from pathlib import Path

from hwbench.errors import StageError

Clock = Callable[[], float]
"""Seconds from any origin, never going back (``time.perf_counter``)."""


def unavailable(meter: str, why: str, mend: str = "") -> StageError:
    """Return the error of a meter that cannot measure: ``not available: why``."""
    return StageError("measure", f"not available: {why}", where=f"meter {meter}", mend=mend)


def read_text(meter: str, path: Path, mend: str = "") -> str:
    """Return the text of a sensor's file; raises `StageError` if it cannot be read."""
    try:
        return path.read_text().strip()
    except FileNotFoundError as error:
        raise unavailable(meter, f"{path} does not exist", mend) from error
    except PermissionError as error:
        raise unavailable(meter, f"{path} is not for this user to read", mend) from error
    except (OSError, UnicodeDecodeError) as error:
        raise unavailable(meter, f"{path} cannot be read ({error})", mend) from error


def read_number(meter: str, path: Path, mend: str = "") -> float:
    """Return the number in a sensor's file; raises `StageError` if there is none."""
    text = read_text(meter, path, mend)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise unavailable(meter, f"{path} reads {text[:40]!r}, not a number", mend)
    return number


class Stopwatch:
    """The seconds between `start` and `stop` of a meter."""

    def __init__(self, meter: str, clock: Clock) -> None:
        """Take the meter's name, for messages, and its clock."""
        self._meter = meter
        self._clock = clock
        self._begun: float | None = None

    def start(self) -> None:
        """Begin."""
        self._begun = self._clock()

    def stop(self) -> float:
        """Return the seconds since `start`; raises `StageError` if it never began."""
        if self._begun is None:
            raise StageError(
                "measure", "stopped before it was started", where=f"meter {self._meter}"
            )
        seconds, self._begun = self._clock() - self._begun, None
        if seconds <= 0.0:
            raise unavailable(self._meter, "no time passed between start and stop")
        return seconds


class PowerSampler:
    """Samples a power reading in a thread and integrates it by trapezoids.

    One sample is taken at `start` and one at `stop`, in the caller's thread; those between come
    every ``period`` seconds. A reading that fails in the thread surfaces at `stop`.
    """

    def __init__(self, read: Callable[[], float], period: float, clock: Clock) -> None:
        """Take a function that returns watts (and raises `StageError`), a period and a clock."""
        self._read = read
        self._period = period
        self._clock = clock
        self._samples: list[tuple[float, float]] = []
        self._error: StageError | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take the first sample and begin; raises `StageError` if the sensor cannot be read."""
        self._samples, self._error = [], None
        self.sample()
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)
        self._thread.start()

    def sample(self) -> None:
        """Take one sample now; the moment of it is the middle of the reading."""
        before = self._clock()
        watts = self._read()
        self._samples.append(((before + self._clock()) / 2.0, watts))

    def stop(self) -> tuple[float, int]:
        """Return the joules since `start` and the number of samples behind them."""
        if self._thread is None:
            raise StageError("measure", "stopped before it was started")
        self._over.set()
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error
        self.sample()
        return trapezoids(self._samples), len(self._samples)

    def _run(self) -> None:
        while not self._over.wait(self._period):
            try:
                self.sample()
            except StageError as error:
                self._error = error
                return


def trapezoids(samples: list[tuple[float, float]]) -> float:
    """Return the joules under (seconds, watts) samples; 0 from fewer than two."""
    pairs = itertools.pairwise(samples)
    return math.fsum((t2 - t1) * (w1 + w2) / 2.0 for (t1, w1), (t2, w2) in pairs)


def counted(meter: str, joules: float) -> float:
    """Return `joules` if anything was counted; raises `StageError` for none or nonsense."""
    if not math.isfinite(joules) or joules <= 0.0:
        raise unavailable(meter, f"it counted {joules:g} J, as if nothing had run")
    return joules
