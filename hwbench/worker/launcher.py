"""The launcher: takes commands from the host (or from a file), runs children, relays samples."""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hwbench import conditions, files
from hwbench.records import Roofline, to_json
from hwbench.worker.messages import (
    Close,
    Command,
    Energy,
    Feel,
    Job,
    Look,
    Memory,
    Open,
    Outputs,
    Rounds,
    Settings,
    decode,
)
from hwbench.worker.processes import BrokenError, Child
from hwbench.worker.wire import HostGoneError, Wire

_ALIVE_EVERY = 2.0
_WAITING = "another session measures on this device: waiting until it is done"
Say = Callable[[Mapping[str, Any]], None]


def serve(zipped: Path, folder: Path) -> int:
    """Answer commands on standard input, on standard output, until the input ends."""
    # Whatever else writes to standard output must not reach the host.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    host = Wire(0)

    def say(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    try:
        with Launcher(_unpacked(zipped, folder), host, say) as launcher:
            say({"hello": True})
            while True:
                while (line := host.line()) is None:
                    if not host.fill():
                        return 0
                launcher.do(decode(line))
    except (HostGoneError, BrokenPipeError):
        return 0
    finally:
        # With the host gone nobody else will tidy up; the name says that the folder is ours.
        if folder.name.startswith("hwbench-"):
            shutil.rmtree(folder, ignore_errors=True)


def run(zipped: Path, folder: Path) -> int:
    """Do the commands in ``job.json``; append every answer to ``samples.jsonl``.

    Answers are written when a command (of the latency pass: a generation) is over, so that
    nothing is written beside what is timed. After an interruption the same call goes on there.
    """
    commands = [decode(json.dumps(c)) for c in json.loads((folder / "job.json").read_text())]
    samples = folder.absolute() / "samples.jsonl"
    done = _resumed(samples)
    said: list[str] = []
    code = _unpacked(zipped, folder)
    with Launcher(code, None, lambda message: said.append(json.dumps(message))) as launcher:
        for unit in _units(commands):
            if done >= len(unit):
                done -= len(unit)
                continue
            for command in unit:
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {type(command).__name__}\n")
                launcher.do(command)
            files.append(samples, "\n".join(said))
            said.clear()
    return 0


def _units(commands: Sequence[Command]) -> list[list[Command]]:
    """Return the commands in groups that are only done as a whole: a generation is one."""
    units: list[list[Command]] = []
    for command in commands:
        if units and isinstance(units[-1][0], Open) and not isinstance(units[-1][-1], Close):
            units[-1].append(command)
        else:
            units.append([command])
    return units


def _resumed(samples: Path) -> int:
    """Return how many commands an earlier run finished; what it left half written is cut off."""
    if not samples.exists():
        return 0
    content = samples.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    # What follows the last "done" was torn: a unit is written at once and ends in one.
    end = whole.rfind(b'{"done"')
    kept = whole[: whole.find(b"\n", end) + 1] if end >= 0 else b""
    if kept != content:
        files.write(samples, kept)
    return sum(line.startswith(b'{"done"') for line in kept.splitlines())


class Launcher:
    """Runs one command at a time; a generation's children stay between commands."""

    def __init__(self, code: Path, host: Wire | None, say: Say) -> None:
        """Start children from `code`, watch `host` for its end, answer through `say`."""
        self._code = code
        self._host = host
        self._say = say
        self._children: list[Child] = []
        self._resident: dict[str, Child] = {}
        self._rng = random.Random(0)  # noqa: S311  (for order, not for secrets)
        self._last_sign = 0.0
        self._best_clock = 0.0
        self._lock: int | None = None

    def __enter__(self) -> Launcher:
        """Turn polite signals into an orderly end."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)
        return self

    def __exit__(self, *_: object) -> None:
        """End all children."""
        self._end()

    def do(self, command: Command) -> None:
        """Do one command and answer it."""
        match command:
            case Feel():
                read = conditions.read(gpu=command.gpu, wheels=command.wheels)
                feel = {"conditions": to_json(read)}
                self._say({**feel, "emulated": conditions.emulated()})
            case Look():
                self._each(command.jobs, command.settings, "versions", None)
            case Memory():
                self._each(command.jobs, command.settings, "memory", "memory", runs=command.runs)
            case Outputs():
                self._each(command.jobs, command.settings, "outputs", "outputs")
            case Energy():
                self._alone()
                self._energy(command)
            case Open():
                self._alone()
                self._open(command)
            case Rounds():
                self._rounds(command)
            case Close():
                self._end()
        self._say({"done": type(command).__name__})

    def _alone(self) -> None:
        """Wait until no other session measures on this device; then none does until we end."""
        if self._lock is not None:
            return
        path = Path(tempfile.gettempdir()) / "hwbench-device.lock"
        try:
            self._lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            self._lock = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # More often than that it lives: whoever looks at the screen wonders at once.
                self._say({"alive": True, "waiting": _WAITING})
                if self._host is not None and _ended(self._host):
                    raise HostGoneError from None
            else:
                return

    def _each(
        self,
        jobs: Sequence[Job],
        settings: Settings,
        key: str,
        command: str | None,
        timeout: float | None = None,
        **arguments: Any,
    ) -> None:
        """Give every job a fresh process and one command, some side by side."""
        width = max(settings.side_by_side, 1)
        for start in range(0, len(jobs), width):
            repeatable = command == "memory"
            children = [self._start(j, settings, repeatable) for j in jobs[start : start + width]]
            for child in children:
                if command == "outputs":
                    arguments = {"file": f"outputs/{child.job.name}.npy"}
                if command is not None:
                    child.send(command, **arguments)
            for child in children:
                self._report(child, key, command, timeout)
            self._end()

    def _report(self, child: Child, key: str, command: str | None, timeout: float | None) -> None:
        try:
            found = child.answer("import")
            if command is not None:
                found = child.answer(command, timeout)
        except BrokenError as error:
            self._failed(child, error)
            return
        self._say({"of": child.job.name, key: found})

    def _energy(self, command: Energy) -> None:
        # Half a dozen meters may be tried, each for that long.
        timeout = command.settings.timeout + command.seconds * (1 + len(command.meters))
        meters = to_json(command.meters)
        for job in command.jobs:
            child = self._start(job, command.settings)
            said: dict[str, Any] = {"of": job.name}
            try:
                child.answer("import")
                asked = {"meters": meters, "seconds": command.seconds}
                said["energy"] = child.ask("energy", timeout, **asked)
            except BrokenError as error:
                said["failure"] = to_json(error.failure)
            if command.roofline and "energy" in said:
                said["roofline"] = _roofline(child)
            self._end()
            self._say(said)

    def _open(self, command: Open) -> None:
        """Start all children at once, but load and warm them one after the other."""
        self._end()
        self._rng = random.Random(f"{command.settings.seed}:{command.generation}")  # noqa: S311
        jobs = list(command.jobs)
        self._rng.shuffle(jobs)
        importing = []
        for child in [self._start(job, command.settings) for job in jobs]:
            try:
                importing.append((child, child.answer("import")))
            except BrokenError as error:
                self._failed(child, error)
        for child, imported in importing:
            try:
                ready = child.ask("load", child.settings.timeout + child.settings.warmup_seconds)
            except BrokenError as error:
                self._failed(child, error)
                continue
            child.seconds_per_call = ready["call"]
            self._resident[child.job.name] = child
            self._say({"of": child.job.name, "ready": {**ready, **imported}})

    def _rounds(self, command: Rounds) -> None:
        # Written at the end: a host that reads would wake up beside a timed child.
        said: list[Mapping[str, Any]] = []
        end = time.monotonic() + command.seconds
        gpu = next((c.settings.gpu for c in self._resident.values()), "")
        before = self._felt(gpu)
        for number in range(command.first, command.first + command.count):
            order = [name for name in command.names if name in self._resident]
            self._rng.shuffle(order)
            for place, name in enumerate(order):
                child = self._resident[name]
                try:
                    visit = _visit(child)
                except BrokenError as error:
                    del self._resident[name]
                    said.append({"of": name, "failure": to_json(error.failure)})
                    child.end()
                    continue
                after = self._felt(gpu)
                why = conditions.taint(before, after, child.settings.throttle_celsius)
                before = after
                where = {"round": number, "order": place, "taint": list(why)}
                said.append({"of": name, "visit": {**visit, **where}})
                self._alive()
            if time.monotonic() > end:
                break
        for message in said:
            self._say(message)

    def _felt(self, gpu: str) -> dict[str, Any]:
        """Return the state, with the fastest clock that the GPU has had in this session."""
        found = conditions.state(gpu=gpu)
        if gpu and found.get("gpu_clock"):
            self._best_clock = max(self._best_clock, found["gpu_clock"])
            found["gpu_clock_best"] = self._best_clock
        return found

    def _alive(self) -> None:
        if time.monotonic() - self._last_sign > _ALIVE_EVERY:
            self._last_sign = time.monotonic()
            self._say({"alive": True})

    def _start(self, job: Job, settings: Settings, repeatable: bool = False) -> Child:
        child = Child(
            job,
            settings,
            self._code,
            self._rng,
            self._host,
            self._alive,
            repeatable=repeatable,
        )
        self._children.append(child)
        return child

    def _failed(self, child: Child, error: BrokenError) -> None:
        child.end()
        self._say({"of": child.job.name, "failure": to_json(error.failure)})

    def _end(self) -> None:
        for child in self._children:
            child.end()
        self._children.clear()
        self._resident.clear()


def _ended(host: Wire) -> bool:
    """Sleep for a second, or until the host has gone; return whether it has."""
    ready, _, _ = select.select([host.fd], [], [], 1.0)
    return bool(ready) and not host.fill()


def _roofline(child: Child) -> Any:
    """Return what a child says of its layers: whatever befalls it then, its energy is read."""
    try:
        return child.ask("roofline")
    except BrokenError as error:
        return to_json(Roofline(reason=error.failure.message))


def _visit(child: Child) -> dict[str, Any]:
    spec, each = child.settings, child.seconds_per_call
    wanted = round(spec.visit_seconds / each) if each > 0 else spec.max_calls
    calls = max(spec.min_calls, min(wanted, spec.max_calls))
    # A slow artifact is given the time that so many calls take, thrice.
    timeout = spec.timeout + 3 * each * (calls + 1)
    visit: dict[str, Any] = child.ask("visit", timeout, calls=calls)
    return visit


def _unpacked(zipped: Path, folder: Path) -> Path:
    """Return the folder of the worker's code, unpacked: Python keeps no bytecode for a zip."""
    code = folder.absolute() / "code"
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(code)
    os.chdir(folder)
    return code


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(1)
