"""Hands may crash, hang or shout; the crew says so and goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwbench.errors import StageError, UserError
from hwbench.executor.jobs import Inputs, Job, WriteInputs
from hwbench.executor.local import Crew
from hwbench.records import WorkloadSpec

pytestmark = pytest.mark.slow

TOY = WorkloadSpec("toy", {})


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


def ask(crew: Crew, workload: WorkloadSpec, folder: Path) -> list[object]:
    folder.mkdir(exist_ok=True)
    return list(crew.submit(WriteInputs(workload, "test", folder)).result())


def quiet(_job: Job, _share: float) -> None:
    """Nobody listens."""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("ctypes.string_at(0)", "killed by SIGSEGV"),
        ("os._exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 9)", "out of memory"),
    ],
)
def test_a_hand_that_dies_fails_its_job_and_the_next_job_is_done(
    body: str, says: str, tmp_path: Path
) -> None:
    with Crew(1, tmp_path / "logs", quiet, 300) as crew:
        with pytest.raises(StageError, match=says):
            ask(crew, mine(tmp_path, body), tmp_path / "a")
        (answer,) = ask(crew, TOY, tmp_path / "b")
        assert isinstance(answer, Inputs)
        assert answer.inputs.exists()


def test_a_hand_that_hangs_is_stopped(tmp_path: Path) -> None:
    with Crew(1, tmp_path / "logs", quiet, 20) as crew:
        with pytest.raises(StageError, match="hung"):
            ask(crew, mine(tmp_path, "[time.sleep(1) for _ in range(10**6)]"), tmp_path / "a")
        (answer,) = ask(crew, TOY, tmp_path / "b")
        assert isinstance(answer, Inputs)


def test_what_a_hand_prints_goes_to_its_log_and_mistakes_come_back(tmp_path: Path) -> None:
    body = "print('x' * 3_000_000); raise KeyError('oops')"
    with (
        Crew(1, tmp_path / "logs", quiet, 300) as crew,
        pytest.raises(UserError, match="oops"),
    ):
        ask(crew, mine(tmp_path, body), tmp_path / "a")
    assert (tmp_path / "logs/hand-1.txt").stat().st_size > 3_000_000


def test_the_log_of_a_hand_that_shouts_is_cut_and_its_last_words_are_kept(tmp_path: Path) -> None:
    # It shouts 9 MB and waits until somebody has cut its log.
    body = (
        "size = 0\n"
        "        while os.fstat(1).st_size >= size:\n"
        "            size = os.fstat(1).st_size\n"
        "            if size < 9_000_000: print('x' * 1_000_000, flush=True)\n"
        "        print('last words', flush=True); os._exit(4)"
    )
    with (
        Crew(1, tmp_path / "logs", quiet, 300) as crew,
        pytest.raises(StageError) as error,
    ):
        ask(crew, mine(tmp_path, body), tmp_path / "a")
    assert "last words" in error.value.where
    log = tmp_path / "logs/hand-1.txt"
    assert log.stat().st_size < 1000
    assert log.read_bytes().startswith(b"[what was printed before was more than 8 MB")


def test_closing_ends_hands_and_what_waits(tmp_path: Path) -> None:
    with Crew(1, tmp_path / "logs", quiet, 300) as crew:
        body = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(9999)"
        first = crew.submit(WriteInputs(mine(tmp_path, body), "test", tmp_path))
        waiting = [crew.submit(WriteInputs(TOY, "test", tmp_path)) for _ in range(3)]
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert not first.done()
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(StageError):
        first.result(timeout=10)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
