"""Jobs in child processes: they work in parallel and may die without taking us along."""

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
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from hwbench import files
from hwbench.errors import StageError, UserError
from hwbench.executor.base import Heard, Job, silent
from hwbench.executor.process import told
from hwbench.records import Failure, from_json
from hwbench.store import Cache, Entry

A = TypeVar("A")
_BLINK = 1.0
_LOG_BYTES = 8 << 20
_CUT = b"[what was printed before was more than 8 MB and is cut]\n"
_Work = tuple[Job[Any], Entry[Any], Heard, "Future[Any]"]


class LocalExecutor:
    """Child processes that take jobs from one queue; use as a context manager."""

    def __init__(self, cache: Cache, size: int, logs: Path, silence: float) -> None:
        """Prepare `size` processes (started when there is work); each prints to a file in `logs`.

        Answers go to `cache`. One that says nothing for `silence` seconds counts as hanging and is
        stopped.
        """
        self._cache, self._silence = cache, silence
        self._jobs: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        threads = max(1, (os.cpu_count() or 1) // size)
        with files.said(logs):
            logs.mkdir(exist_ok=True, parents=True)
        names = (logs / f"worker-{n}.txt" for n in range(1, size + 1))
        self._hands = [_Hand(cache, name, threads) for name in names]
        self._threads = [
            threading.Thread(target=self._work, args=(hand,), daemon=True) for hand in self._hands
        ]

    def __enter__(self) -> LocalExecutor:
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
        """End every process; what they were doing is lost, what they had finished is cached."""
        for hand in self._hands:
            hand.end()
        # What was queued, and what a job that just ended queues yet, is cancelled by its thread.
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def size(self) -> int:
        """How many jobs are done at a time."""
        return len(self._hands)

    def submit(self, job: Job[A], entry: Entry[A], heard: Heard = silent) -> Future[A]:
        """Queue a job; the future holds its answer, read from the cache."""
        future: Future[A] = Future()
        self._jobs.put((job, entry, heard, future))
        return future

    def _work(self, hand: _Hand) -> None:
        for job, entry, heard, future in iter(self._jobs.get, None):
            if hand.ended:
                future.cancel()
                continue
            try:
                future.set_result(self._done(hand, job, entry, heard))
            except (StageError, UserError) as error:
                future.set_exception(error)
            except Exception as error:  # noqa: BLE001  (it costs this job and no other)
                what = f"the job could not be done: {type(error).__name__}: {error}"
                future.set_exception(StageError(job.stage, what))

    def _done(self, hand: _Hand, job: Job[A], entry: Entry[A], heard: Heard) -> A:
        for message in hand.ask(job, entry, self._silence):
            if "progress" in message:
                heard(message["progress"])
            elif "failure" in message:
                raise from_json(Failure, message["failure"]).error()
            elif "user_error" in message:
                what = message.pop("user_error")
                raise UserError(what, **message)
        answer = self._cache.find(entry)
        if answer is None:
            raise StageError(job.stage, "the job ended without an answer in the cache")
        return answer


class _Hand:
    """One child process, started when it is asked something and again after it died."""

    def __init__(self, cache: Cache, log: Path, threads: int) -> None:
        self._cache, self._log, self._threads = cache, log, threads
        self._lock = threading.Lock()
        self.ended = False
        log.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask(self, job: Job[Any], entry: Entry[Any], silence: float) -> Iterator[dict[str, Any]]:
        """Yield the messages about one job. Raises `StageError` when the child dies over it."""
        with self._lock:
            if self.ended:
                raise StageError(job.stage, "the run was stopped")
            process = self._started()
        assert process.stdin is not None
        line = told(job, entry)
        log_start = self._log.stat().st_size
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        while True:
            answer = self._line(process, silence)
            if not answer:
                raise self._obituary(process, log_start, job.stage)
            message = json.loads(answer)
            if "end" in message:
                return
            yield message
            if "failure" in message or "user_error" in message:
                return

    def end(self) -> None:
        """Kill the child; it is not started again."""
        with self._lock:
            self.ended = True
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
                # Its own session: Ctrl-C reaches the parent alone, which then ends it.
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-X",
                        "faulthandler",
                        "-m",
                        "hwbench.executor.process",
                        str(self._cache.root),
                        self._cache.stamp,
                    ],
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

    def _obituary(self, process: subprocess.Popen[bytes], log_start: int, stage: str) -> StageError:
        code = process.wait()
        _hang_up(process)
        with self._log.open("rb") as log:
            # Where the log was cut meanwhile, all that is left of it is this job's.
            log.seek(log_start if log_start <= self._log.stat().st_size else 0)
            tail = log.read().decode(errors="replace").strip().splitlines()[-25:]
        said = "\n".join(tail) or "it printed nothing"
        return StageError(stage, _died(code), where=f"{self._log}:\n{said}")


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
