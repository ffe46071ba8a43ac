"""A crew of hands: child processes that work in parallel and may die without taking us along."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from hwbench import files
from hwbench.errors import StageError, UserError
from hwbench.executor.jobs import ANSWERS, Answer, Job
from hwbench.records import Failure, from_json, to_json

_BLINK = 1.0
_LOG_BYTES = 8 << 20
_CUT = b"[what was printed before was more than 8 MB and is cut]\n"
Heard = Callable[[Job, float], None]


class Crew:
    """Hands that take jobs from one queue; use as a context manager.

    `submit` returns a future of the job's answers. A job that fails raises `StageError` from
    its future, a mistake of the user's `UserError`.
    """

    def __init__(self, size: int, logs: Path, heard: Heard, silence: float) -> None:
        """Prepare `size` hands (started when there is work); each prints into a file in `logs`.

        One that says nothing for `silence` seconds counts as hanging and is stopped.
        """
        self._jobs: queue.SimpleQueue[tuple[Job, Future[list[Answer]]] | None]
        self._jobs = queue.SimpleQueue()
        self._heard, self._silence = heard, silence
        threads = max(1, (os.cpu_count() or 1) // size)
        with files.said(logs):
            logs.mkdir(exist_ok=True)
        self._hands = [_Hand(logs / f"hand-{n}.txt", threads) for n in range(1, size + 1)]
        self._threads = [
            threading.Thread(target=self._work, args=(hand,), daemon=True) for hand in self._hands
        ]

    def __enter__(self) -> Crew:
        """Start to take jobs."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """End every hand; what they were doing is lost, what they had finished is cached."""
        with contextlib.suppress(queue.Empty):
            while (waiting := self._jobs.get_nowait()) is not None:
                waiting[1].cancel()
        for hand in self._hands:
            hand.end()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def size(self) -> int:
        """How many hands work at a time."""
        return len(self._hands)

    def submit(self, job: Job) -> Future[list[Answer]]:
        """Queue a job; the future holds its answers."""
        future: Future[list[Answer]] = Future()
        self._jobs.put((job, future))
        return future

    def _work(self, hand: _Hand) -> None:
        for job, future in iter(self._jobs.get, None):
            try:
                future.set_result(self._do(hand, job))
            except (StageError, UserError) as error:
                future.set_exception(error)
            except BaseException as error:
                future.set_exception(error)
                raise

    def _do(self, hand: _Hand, job: Job) -> list[Answer]:
        answers: list[Answer] = []
        for message in hand.ask(job, self._silence):
            if "progress" in message:
                self._heard(job, message["progress"])
            elif "answer" in message:
                answers.append(from_json(ANSWERS[message["answer"]], message["data"]))
            elif "failure" in message:
                failure = from_json(Failure, message["failure"])
                raise StageError(failure.stage, failure.message, where=failure.detail)
            elif "user_error" in message:
                what = message.pop("user_error")
                raise UserError(what, **message)
        return answers


class _Hand:
    """One child process, started when it is asked something and again after it died."""

    def __init__(self, log: Path, threads: int) -> None:
        self._log, self._threads = log, threads
        self._lock = threading.Lock()
        self._ended = False
        log.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask(self, job: Job, silence: float) -> Iterator[dict[str, Any]]:
        """Yield the messages about one job. Raises `StageError` when the hand dies over it."""
        with self._lock:
            if self._ended:
                raise StageError("prepare", "the run was stopped")
            process = self._started()
        assert process.stdin is not None
        line = json.dumps({"job": type(job).__name__, "data": to_json(job)})
        log_start = self._log.stat().st_size
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        while True:
            answer = self._line(process, silence)
            if not answer:
                raise self._obituary(process, log_start)
            message = json.loads(answer)
            if "end" in message:
                return
            yield message
            if "failure" in message or "user_error" in message:
                return

    def end(self) -> None:
        """Kill the child; it is not started again."""
        with self._lock:
            self._ended = True
            if self._process is not None and self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                _hang_up(self._process)
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what it did not read is lost anyway
                self._process.stdin.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
            with self._log.open("ab") as log:
                # Its own session: Ctrl-C reaches the parent alone, which then ends its hands.
                self._process = subprocess.Popen(
                    [sys.executable, "-X", "faulthandler", "-m", "hwbench.executor.process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            self._lines = queue.SimpleQueue()
            threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
        return self._process

    def _line(self, process: subprocess.Popen[bytes], silence: float) -> bytes:
        """Return the next line; empty when the child died or kept silent for too long."""
        end = time.monotonic() + silence
        while True:
            self._cut_log()
            left = end - time.monotonic()
            try:
                return self._lines.get(timeout=max(min(left, _BLINK), 0.0))
            except queue.Empty:
                if left <= _BLINK:
                    os.killpg(process.pid, signal.SIGKILL)
                    return b""

    def _cut_log(self) -> None:
        """Keep what it prints from filling the disk; it appends, so its file may be cut."""
        if self._log.stat().st_size > _LOG_BYTES:
            with self._log.open("r+b") as log:
                # Cut last: what is printed after the cut stands behind the notice, not under it.
                log.write(_CUT)
                log.flush()
                log.truncate(len(_CUT))

    def _obituary(self, process: subprocess.Popen[bytes], log_start: int) -> StageError:
        code = process.wait()
        _hang_up(process)
        with self._log.open("rb") as log:
            # Where the log was cut meanwhile, all that is left of it is this job's.
            log.seek(log_start if log_start <= self._log.stat().st_size else 0)
            tail = log.read().decode(errors="replace").strip().splitlines()[-25:]
        said = "\n".join(tail) or "it printed nothing"
        return StageError("prepare", _died(code), where=f"{self._log}:\n{said}")


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Hand on the child's lines, and an empty one at its end."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(b"")


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    """Close our end of a dead child's input."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _died(code: int) -> str:
    if code >= 0:
        return (
            f"the process that worked on it ended with exit code {code} and no answer "
            "(sys.exit or os._exit in the workload? a bug?)"
        )
    name = signal.Signals(-code).name
    hint = " (out of memory, or it hung and was stopped)" if name == "SIGKILL" else ""
    return f"the process that worked on it was killed by {name}{hint}"
