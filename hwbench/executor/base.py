"""The seam for work: jobs are records that can do themselves, executors do them elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from hwbench.store import Entry

A = TypeVar("A")
B = TypeVar("B")
Heard = Callable[[float], None]
"""Called with the share of a job that is done, 0..1."""


def silent(_share: float) -> None:
    """Listen to nobody."""


class Job(Generic[A]):
    """Work as a record: it can be sent away, and its answer is decided by its fields alone.

    A subclass is a frozen dataclass of records, with a `do`; adding a job is adding a class.
    What it answers with is kept in the cache and read from there, so that it is never done twice.
    """

    stage: ClassVar[str] = "prepare"
    """The stage that a failure is told of, where it does not say so itself."""

    @property
    def alone(self) -> str:
        """What of the machine it must have for itself, such as ``gpu``; empty: nothing."""
        return ""

    def do(self, folder: Path, heard: Heard) -> A:
        """Return the answer; files go to `folder`, which is empty.

        Raises `StageError`, or `UserError` for a mistake of the user's.
        """
        raise NotImplementedError


class Executor(Protocol):
    """Does jobs side by side, in places that may crash without taking anybody along."""

    @property
    def size(self) -> int:
        """How many jobs are done at a time."""

    def submit(self, job: Job[A], entry: Entry[A], heard: Heard = silent) -> Future[A]:
        """Queue a job whose answer is kept as `entry`; return the future of it.

        The future raises `StageError` when the job fails or dies, of whatever, and `UserError`
        for a mistake of the user's; no other job is concerned. `heard` is called from a thread of
        the executor's.
        """


def then(need: Future[A], step: Callable[[A], Future[B]]) -> Future[B]:
    """Return the future of a step that is begun when what it needs is there.

    What becomes of the need, failure or cancellation, becomes of the step.
    """
    whole: Future[B] = Future()

    def begin(done: Future[A]) -> None:
        try:
            step(done.result()).add_done_callback(lambda ended: _relay(ended, whole))
        except CancelledError:
            whole.cancel()
        except Exception as error:  # noqa: BLE001  (raised by whoever asks for the result)
            whole.set_exception(error)

    need.add_done_callback(begin)
    return whole


def done(answer: A) -> Future[A]:
    """Return the future of what is there already."""
    future: Future[A] = Future()
    future.set_result(answer)
    return future


def _relay(ended: Future[B], whole: Future[B]) -> None:
    try:
        whole.set_result(ended.result())
    except CancelledError:
        whole.cancel()
    except Exception as error:  # noqa: BLE001  (raised by whoever asks for the result)
        whole.set_exception(error)
