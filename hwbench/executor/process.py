"""A worker process of the host: it does the heavy work, one job at a time.

``python -m hwbench.executor.process CACHE STAMP`` reads jobs as JSON lines and reports on the file
descriptor that was its standard output; whatever torch or the user's code prints goes to standard
error. Answers are left in the cache. It lives in a process of its own so that a crash, a hang or a
full memory costs one job and not the run, and ends at once when its parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from hwbench import files
from hwbench.errors import StageError, UserError
from hwbench.executor.base import Heard, Job
from hwbench.records import Failure, from_json, to_json
from hwbench.store import Cache, Entry


def main(root: str, stamp: str) -> None:
    """Do jobs until standard input ends; `root` and `stamp` are those of the cache."""
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Where backends keep what they find out about a machine.
    os.environ["HWBENCH_CACHE"] = root
    cache = Cache(Path(root), stamp)
    for line in _lines():
        _report(line, cache, reports)


def told(job: Job[Any], entry: Entry[Any]) -> str:
    """Return a job and where its answer goes as the line that `main` reads."""
    kind = type(job)
    name = f"{kind.__module__}:{kind.__qualname__}"
    return json.dumps({"job": name, "data": to_json(job), "room": entry.room, "key": entry.key})


def _heard(line: str) -> tuple[Job[Any], Entry[Any]]:
    message = json.loads(line)
    module, _, name = message["job"].partition(":")
    kind = getattr(importlib.import_module(module), name)
    answer = typing.get_type_hints(kind.do)["return"]
    return from_json(kind, message["data"]), Entry(message["room"], message["key"], answer)


def _lines() -> Iterable[str]:
    """Yield the lines of standard input; the process ends with it, even in the middle of a job."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    # The user's code finds an empty input instead: it may read it, and exit() closes it.
    jobs = os.fdopen(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdin = os.fdopen(0, closefd=False)

    def read() -> None:
        for line in jobs:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _report(line: str, cache: Cache, stream: IO[str]) -> None:
    last = 0.0

    def say(**message: Any) -> None:
        stream.write(json.dumps(message) + "\n")

    def progress(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2 or share >= 1:
            last = time.monotonic()
            say(progress=share)

    job, entry = _heard(line)

    def build(folder: Path) -> Any:
        with _turn(cache, job, progress):
            return job.do(folder, progress)

    try:
        cache.make(entry, build)
        say(end=True)
    except UserError as error:
        parts = {"where": error.where, "expected": error.expected, "mend": error.mend}
        say(user_error=error.what, **parts)
    except StageError as error:
        say(failure=to_json(Failure.of(error)))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it costs this job, whatever it is)
        traceback.print_exc()
        say(failure=to_json(_foreign(job, error)))


@contextlib.contextmanager
def _turn(cache: Cache, job: Job[Any], heard: Heard) -> Iterator[None]:
    """Hold what a job must have alone: the processes that want it take turns."""
    if not job.alone:
        yield
        return
    # A process that says nothing counts as hanging.
    with files.locked(cache.root / f"{job.alone}.lock", wait=True, meanwhile=lambda: heard(0.0)):
        yield


def _foreign(job: Job[Any], error: BaseException) -> Failure:
    """Return what nobody foresaw as this job's failure, with the line where it happened."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0]
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return Failure(job.stage, f"nobody foresaw this: {what}", f"{last.filename}:{last.lineno}")


if __name__ == "__main__":
    main(*sys.argv[1:])
