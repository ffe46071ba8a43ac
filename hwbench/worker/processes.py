"""The launcher's end of a child: start it, ask it, end it, and say in words how it ended."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hwbench.records import Failure, from_json, to_json
from hwbench.worker.messages import Job, Settings
from hwbench.worker.wire import Wire, wait

_LOG_BYTES = 1 << 20
_TAIL_BYTES = 2000
_MOST_PADDING = 4096
_ADDR_NO_RANDOMIZE = 0x0040000
_ASK_PERSONALITY = 0xFFFFFFFF


class BrokenError(Exception):
    """A child failed; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure."""
        super().__init__(failure.message)
        self.failure = failure


class Child:
    """A fresh process that was exec'd from the launcher (which is small, and so is its copy)."""

    def __init__(
        self,
        job: Job,
        settings: Settings,
        code: Path,
        rng: random.Random,
        host: Wire | None,
        alive: Callable[[], None],
        *,
        repeatable: bool = False,
    ) -> None:
        """Start the process; it begins to import.

        Its environment has a random size, or with `repeatable` none of what differs from start
        to start: times should vary as they do in life, peaks of memory are for comparing.
        """
        self.job = job
        self.settings = settings
        self.seconds_per_call = 0.0
        self._host = host
        self._alive = alive
        self._log = (code.parent / f"log-{rng.getrandbits(48):012x}").open("w+b", buffering=0)
        # Appending, so that the log can be cut while the child goes on writing to it.
        log = os.open(self._log.name, os.O_WRONLY | os.O_APPEND)
        Path(self._log.name).unlink()
        commands, self._commands = os.pipe()
        answers, theirs = os.pipe()
        self._wire = Wire(answers)
        try:
            with _fixed_addresses() if repeatable else contextlib.nullcontext():
                self._process = subprocess.Popen(
                    [sys.executable, job.code or str(code), "child", str(commands), str(theirs)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(commands, theirs),
                    start_new_session=True,
                    env=_environment(job, settings.gpu, None if repeatable else rng),
                )
        finally:
            for fd in (log, commands, theirs):
                os.close(fd)
        # A child of an older hwbench knows fewer fields: what is at its default goes unsaid.
        told = dataclasses.replace(job, code="")
        self._write(json.dumps({"job": _said(told), "settings": _said(settings)}))

    def send(self, command: str, **arguments: Any) -> None:
        """Give a command; the answer is for `answer` to fetch."""
        self._write(json.dumps([command, arguments]))

    def answer(self, doing: str, timeout: float | None = None) -> Any:
        """Return the answer to the command under way; raises `BrokenError` when there is none.

        The timeout begins anew whenever the child says that it is alive.
        """
        limit = self.settings.timeout if timeout is None else timeout
        while True:
            try:
                message = json.loads(wait(self._wire, limit, self._host, self._blink))
            except TimeoutError:
                what = f"no answer within {limit:g} s ({doing}): it hangs and was killed"
                raise BrokenError(Failure("measure", what, self._tail())) from None
            except EOFError:
                raise BrokenError(Failure("measure", self._ending(doing), self._tail())) from None
            if "failure" in message:
                raise BrokenError(from_json(Failure, message["failure"]))
            if "ok" in message:
                return message["ok"]

    def ask(self, command: str, timeout: float | None = None, **arguments: Any) -> Any:
        """Give a command and return its answer."""
        self.send(command, **arguments)
        return self.answer(command, timeout)

    def end(self) -> None:
        """Kill the process and everything it started; safe to call twice."""
        if self._log.closed:
            return
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._wire.fd)
        self._log.close()

    def _write(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # `answer` finds out and says how it ended
            os.write(self._commands, line.encode() + b"\n")

    def _blink(self) -> None:
        """Say that the launcher lives, and keep the log from filling the disk."""
        self._alive()
        if os.fstat(self._log.fileno()).st_size > _LOG_BYTES:
            self._log.truncate(0)

    def _tail(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        self._log.seek(max(0, size - _TAIL_BYTES))
        return self._log.read(_TAIL_BYTES).decode(errors="replace").strip()

    def _ending(self, doing: str) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"it closed its pipes ({doing}) and was killed"
        if status >= 0:
            last = (self._tail().splitlines() or ["it said nothing"])[-1]
            return f"its process ended with status {status} ({doing}): {last[:200]}"
        name = signal.Signals(-status).name
        hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name} ({doing}){hint}"


def _said(record: Job | Settings) -> dict[str, Any]:
    """Return a record's fields that are not at their default."""
    return {
        field.name: to_json(value)
        for field in dataclasses.fields(record)
        if (value := getattr(record, field.name)) != field.default
    }


def _environment(job: Job, gpu: str, rng: random.Random | None) -> Mapping[str, str]:
    threads = str(job.threads)
    changed = {
        "OMP_NUM_THREADS": threads,
        "TVM_NUM_THREADS": threads,
        # numpy's own pool would only sit there and take memory.
        "OPENBLAS_NUM_THREADS": "1",
    }
    if gpu not in ("", "any"):
        # NVML counts by the bus, and so must CUDA.
        changed |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu}
    if rng is None:
        changed["PYTHONHASHSEED"] = "0"
    else:
        # The size of the environment shifts the stack, which alone can move times by percents.
        changed["HWBENCH_PADDING"] = "x" * rng.randrange(_MOST_PADDING)
    return {**os.environ, **changed}


@contextlib.contextmanager
def _fixed_addresses() -> Iterator[None]:
    """Have processes start without address randomisation, where the kernel lets us.

    It makes the same program peak 100 kB apart from run to run, more than a small model.
    """
    libc = ctypes.CDLL(None)
    before = libc.personality(_ASK_PERSONALITY)
    libc.personality(before | _ADDR_NO_RANDOMIZE)
    try:
        yield
    finally:
        libc.personality(before)
