"""Jobs may crash, hang, shout or fail in ways nobody foresaw: the executor says so and goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwbench.errors import StageError, UserError
from hwbench.executor.base import Heard, Job
from hwbench.executor.jobs import Inputs, WriteInputs
from hwbench.executor.local import LocalExecutor
from hwbench.records import Failure, WorkloadSpec
from hwbench.store import Cache, Entry

pytestmark = pytest.mark.slow

TOY = WorkloadSpec("toy", {})


@dataclass(frozen=True, slots=True)
class Dies(Job[Failure]):
    """Ends in the way that is asked for."""

    how: str

    def do(self, folder: Path, heard: Heard) -> Failure:
        """Return whether it was to end well."""
        ways: dict[str, Callable[[], object]] = {
            "memory": lambda: bytearray(1 << 60),
            "exit": lambda: exit(3),
            "lookup": lambda: dict[str, int]()["absent"],
            "recursion": lambda: self.do(folder, heard),
            "system": lambda: os.open("/no/such/file", 0),
        }
        ways.get(self.how, lambda: None)()
        return Failure("well", self.how)


def mine(folder: Path, body: str) -> WorkloadSpec:
    path = folder / "mine.py"
    path.write_text(
        "import ctypes, os, time\nclass Mine:\n"
        "    def model(self): ...\n"
        f"    def data(self, split):\n        {body}\n"
        "    def train_step(self, model, inputs, labels): ...\n"
        "    def score(self, outputs, labels): ...\n"
    )
    return WorkloadSpec("python", {"file": str(path)})


@contextmanager
def started(folder: Path, silence: float = 60, size: int = 1) -> Iterator[LocalExecutor]:
    with LocalExecutor(Cache(folder / "cache", "v"), size, folder / "logs", silence) as executor:
        yield executor


def ask(executor: LocalExecutor, workload: WorkloadSpec, key: str) -> Future[Inputs]:
    return executor.submit(WriteInputs(workload, "test"), Entry("inputs", key, Inputs))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("ctypes.string_at(0)", "killed by SIGSEGV"),
        ("os._exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 9)", "out of memory"),
    ],
)
def test_a_process_that_dies_fails_its_job_and_the_next_job_is_done(
    body: str, says: str, tmp_path: Path
) -> None:
    with started(tmp_path) as executor:
        with pytest.raises(StageError, match=says):
            ask(executor, mine(tmp_path, body), "a").result()
        assert ask(executor, TOY, "b").result().inputs.exists()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("memory", "MemoryError"),
        ("exit", "SystemExit: 3"),
        ("lookup", "KeyError: 'absent'"),
        ("recursion", "RecursionError"),
        ("system", "FileNotFoundError"),
    ],
)
def test_whatever_a_job_dies_of_costs_that_job_alone_and_names_its_line(
    how: str, says: str, tmp_path: Path
) -> None:
    with started(tmp_path) as executor:
        lost = executor.submit(Dies(how), Entry("x", "lost", Failure))
        kept = executor.submit(Dies(""), Entry("x", "kept", Failure))
        with pytest.raises(StageError, match=says) as caught:
            lost.result()
        assert kept.result() == Failure("well", "")
    assert how == "exit" or str(Path(__file__)) in caught.value.where
    assert "prepare" in caught.value.stage


def test_what_a_job_answers_is_kept_and_read_from_the_cache(tmp_path: Path) -> None:
    entry = Entry("x", "k", Failure)
    with started(tmp_path) as executor:
        assert executor.submit(Dies("fine"), entry).result().message == "fine"
    assert Cache(tmp_path / "cache", "v").find(entry) == Failure("well", "fine")


def test_a_process_that_hangs_is_stopped(tmp_path: Path) -> None:
    with started(tmp_path, silence=20) as executor:
        with pytest.raises(StageError, match="hung"):
            ask(executor, mine(tmp_path, "[time.sleep(1) for _ in range(10**6)]"), "a").result()
        assert ask(executor, TOY, "b").result().inputs.exists()


def test_what_a_job_prints_goes_to_its_log_and_mistakes_come_back(tmp_path: Path) -> None:
    body = "print('x' * 3_000_000); raise KeyError('oops')"
    with started(tmp_path) as executor, pytest.raises(UserError, match="oops"):
        ask(executor, mine(tmp_path, body), "a").result()
    assert (tmp_path / "logs/worker-1.txt").stat().st_size > 3_000_000


def test_the_log_of_a_job_that_shouts_is_cut_and_its_last_words_are_kept(tmp_path: Path) -> None:
    # It shouts 9 MB and waits until somebody has cut its log.
    body = (
        "size = 0\n"
        "        while os.fstat(1).st_size >= size:\n"
        "            size = os.fstat(1).st_size\n"
        "            if size < 9_000_000: print('x' * 1_000_000, flush=True)\n"
        "        print('last words', flush=True); os._exit(4)"
    )
    with started(tmp_path) as executor, pytest.raises(StageError) as error:
        ask(executor, mine(tmp_path, body), "a").result()
    assert "last words" in error.value.where
    log = tmp_path / "logs/worker-1.txt"
    assert log.stat().st_size < 1000
    assert log.read_bytes().startswith(b"[what was printed before was more than 8 MB")


def test_closing_ends_processes_and_what_waits(tmp_path: Path) -> None:
    with started(tmp_path) as executor:
        body = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(9999)"
        first = ask(executor, mine(tmp_path, body), "a")
        waiting = [ask(executor, TOY, key) for key in "bcd"]
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert not first.done()
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(StageError):
        first.result(timeout=10)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
