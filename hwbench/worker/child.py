"""The child: one fresh process, one artifact; answers commands over its own two pipes.

It imports the backend and says so, then waits. Every command is a line ``[name, arguments]``,
every answer ``{"ok": ...}``, ``{"failure": ...}`` or, in long work, ``{"alive": true}``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hwbench.conditions import nvml
from hwbench.errors import StageError
from hwbench.protocols import Accelerated, Backend, EnergyMeter, Layered, Session, Settling
from hwbench.records import EnergyReading, Failure, Roofline, from_json, to_json
from hwbench.registry import BACKENDS, METERS, Plugin
from hwbench.worker import stopwatch
from hwbench.worker.messages import Job, Settings

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_ALIVE_EVERY = 1.0


def live(commands: int, answers: int) -> int:
    """Answer commands until they end; return the exit status."""
    _die_with_parent()
    with os.fdopen(commands, "rb") as stream, os.fdopen(answers, "wb", buffering=0) as out:

        def say(message: Mapping[str, Any]) -> None:
            out.write(json.dumps(message).encode() + b"\n")

        first = json.loads(stream.readline())
        runner = Runner(from_json(Job, first["job"]), from_json(Settings, first["settings"]), say)
        _answer(say, runner.prepare)
        for line in stream:
            name, arguments = json.loads(line)
            _answer(say, getattr(runner, name), **arguments)
    return 0


def _answer(
    say: Callable[[Mapping[str, Any]], None], work: Callable[..., Any], **arguments: Any
) -> None:
    try:
        say({"ok": work(**arguments)})
    except StageError as error:
        detail = "; ".join(p for p in (error.where, error.expected, error.mend) if p)
        say({"failure": to_json(Failure(error.stage, error.what, detail))})
    except MemoryError:
        say({"failure": to_json(Failure("measure", "it ran out of memory"))})


class Runner:
    """One artifact in one process: its methods are the commands."""

    def __init__(
        self, job: Job, settings: Settings, say: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Keep what to do; nothing is imported yet."""
        self._job = job
        self._settings = settings
        self._say = say
        self._backend: Backend | None = None
        self._session: Session | None = None

    def prepare(self) -> dict[str, Any]:
        """Import the backend; return its versions and whether denormals are flushed."""
        if self._settings.affinity:
            os.sched_setaffinity(0, self._settings.affinity)
        self._backend = _made(BACKENDS.at(self._job.plugin), self._job.options)
        versions = dict(self._backend.versions())
        flushed = self._settings.flush_denormals and stopwatch.flush_denormals()
        return {"versions": versions, "denormals": "flushed" if flushed else "kept"}

    def load(self) -> dict[str, Any]:
        """Load, run once, warm up; return seconds of each and the calls it took."""
        session, load = self._load()
        first = self._first(session)
        spec = self._settings
        calls, each = stopwatch.warm_up(session.invoke, spec.warmup_calls, spec.warmup_seconds)
        gc.collect()
        gc.freeze()
        gc.disable()
        told: dict[str, Any] = {"load": load, "first": first, "warmup_calls": calls, "call": each}
        if isinstance(session, Accelerated):
            told |= {"clock": session.clock, "layers": session.layers}
        return told

    def visit(self, calls: int) -> dict[str, Any]:
        """Time `calls` calls after a discarded one; return nanoseconds and switches of each."""
        assert self._session is not None
        session = self._session
        session.invoke()
        if isinstance(session, Accelerated) and session.clock:
            own: list[int] = []
            _, cpu, switches = stopwatch.time_calls(lambda: own.append(session.time_call()), calls)
            return {"wall": own, "cpu": cpu, "switches": switches}
        wall, cpu, switches = stopwatch.time_calls(session.invoke, calls)
        return {"wall": wall, "cpu": cpu, "switches": switches}

    def memory(self, runs: int) -> dict[str, Any]:
        """Return the peaks of resident memory, phase by phase."""
        imported = stopwatch.peak_memory()
        # What the import needed for a moment must not hide what the model needs.
        stopwatch.reset_peak()
        session, _ = self._load()
        loaded = stopwatch.peak_memory()
        self._first(session)
        first = stopwatch.peak_memory()
        for _ in range(runs):
            session.invoke()
        after = stopwatch.peak_memory()
        phases = ("after_import", "after_load", "after_first", "after_runs")
        found = dict(zip(phases, (imported, loaded, first, after), strict=True))
        if not isinstance(session, Accelerated) or not session.clock:
            return found
        device = session.device_memory()
        # By the driver's own books: what the allocator keeps, and the context.
        seen = nvml.process_memory(os.getpid(), self._settings.gpu or "any")
        return {**found, "device": device if seen is None else {**device, "process": seen}}

    def outputs(self, file: str) -> dict[str, Any]:
        """Write the first output's answers to all inputs, as an ``.npy`` file; return its name."""
        import numpy as np

        session, _ = self._load()
        inputs = np.load(self._settings.inputs, mmap_mode="r", allow_pickle=False)
        batch, path = self._job.batch, Path(file)
        path.parent.mkdir(exist_ok=True)
        answers: np.ndarray | None = None
        said = time.monotonic()
        for start in range(0, len(inputs), batch):
            found = _run(session, _padded(inputs[start : start + batch], batch))
            stop = min(start + batch, len(inputs))
            if answers is None:
                answers = np.empty((len(inputs), *found.shape[1:]), found.dtype)
            answers[start:stop] = found[: stop - start]
            _check_finite(found[: stop - start], start)
            if time.monotonic() - said > _ALIVE_EVERY:
                said = time.monotonic()
                self._say({"alive": True})
        assert answers is not None
        with path.with_suffix(".part").open("wb") as stream:
            np.save(stream, answers, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        path.with_suffix(".part").replace(path)
        return {"file": file}

    def energy(self, meters: list[Mapping[str, Any]], seconds: float) -> Any:
        """Return the reading of the first meter that works, over at least `seconds`."""
        why: list[str] = []
        ready = {kind: meter for kind, meter in (_settled(m, why) for m in meters) if meter}
        session, _ = self._load()
        spec = self._settings
        stopwatch.warm_up(session.invoke, spec.warmup_calls, spec.warmup_seconds)
        for kind, meter in ready.items():
            try:
                return to_json(_metered(meter, session, seconds))
            except StageError as error:
                why.append(f"{kind}: {error.what}")
        raise StageError("measure", f"no energy meter works here: {'; '.join(why)}")

    def roofline(self) -> Any:
        """Return each layer's time under the device's ceilings, or why there is none."""
        session = self._session or self._load()[0]
        if not isinstance(session, Layered):
            return to_json(Roofline(reason="this runtime does not tell its layers apart"))
        try:
            return to_json(session.roofline())
        except StageError as error:
            return to_json(Roofline(reason=error.what))

    def _load(self) -> tuple[Session, float]:
        assert self._backend is not None
        start = time.perf_counter()
        session = self._backend.load(Path(self._job.artifact), self._job.threads)
        seconds = time.perf_counter() - start
        session.set_inputs([self._example()])
        self._session = session
        return session, seconds

    def _first(self, session: Session) -> float:
        start = time.perf_counter()
        session.invoke()
        return time.perf_counter() - start

    def _example(self) -> np.ndarray:
        import numpy as np

        if not self._settings.inputs:
            return np.zeros((1, 1), np.float32)
        inputs = np.load(self._settings.inputs, mmap_mode="r", allow_pickle=False)
        return _padded(inputs[: self._job.batch], self._job.batch)


def _made(plugin: Plugin[T, Any], options: Mapping[str, Any]) -> T:
    lacks = plugin.lacking()
    if lacks:
        raise StageError(
            "measure",
            f"the device lacks {', '.join(lacks)}",
            mend=f"on the device: pip install {' '.join(lacks)}",
        )
    return plugin.create(options)


def _settled(named: Mapping[str, Any], why: list[str]) -> tuple[str, EnergyMeter | None]:
    """Return a meter that has seen the idle device, or None and a reason more."""
    kind = named["kind"].rpartition(".")[2]
    try:
        meter = _made(METERS.at(named["kind"]), named["options"])
        if isinstance(meter, Settling):
            meter.settle()
    except StageError as error:
        why.append(f"{kind}: {error.what}")
        return kind, None
    return kind, meter


def _metered(meter: EnergyMeter, session: Session, seconds: float) -> EnergyReading:
    invoke, clock = session.invoke, time.perf_counter
    calls = 0
    meter.start()
    end = clock() + seconds
    while True:
        invoke()
        calls += 1
        if clock() >= end:
            return meter.stop(calls)


def _run(session: Session, inputs: np.ndarray) -> np.ndarray:
    session.set_inputs([inputs])
    session.invoke()
    found = session.outputs()[0]
    if not found.ndim or len(found) != len(inputs):
        raise StageError(
            "measure",
            f"it answers a batch of {len(inputs)} with an output of shape {found.shape}",
            expected="one row a sample",
        )
    return found


def _padded(inputs: np.ndarray, batch: int) -> np.ndarray:
    """Return a whole batch in memory; the last sample is repeated where there are too few."""
    import numpy as np

    if not len(inputs):
        raise StageError("measure", "there are no inputs")
    short = batch - len(inputs)
    whole = np.concatenate([inputs, *[inputs[-1:]] * short]) if short else inputs
    return np.array(whole)


def _check_finite(found: np.ndarray, start: int) -> None:
    import numpy as np

    broken = ~np.isfinite(found).reshape(len(found), -1).all(axis=1)
    if broken.any():
        sample = start + int(broken.argmax())
        value = next(v for v in found[broken.argmax()].ravel().tolist() if not math.isfinite(v))
        raise StageError("measure", f"its answer to sample {sample} is {value}")


def _die_with_parent() -> None:
    """Have the kernel end this process with the launcher, even in native code that hangs."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
