"""Every connection keeps its promise: files there and back, a worker that ends, nothing left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwbench.connections._board import Board
from hwbench.errors import TargetError
from hwbench.protocols import Connection
from hwbench.registry import CONNECTIONS
from tests import emulated
from tests.loopback import Loopback, serving

ECHO = """
import sys
print("noise", file=sys.stderr, flush=True)
for line in sys.stdin:
    if line.strip() == "end":
        break
    print(line.strip()[::-1], flush=True)
"""


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with emulated.running() as board, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWBENCH_EMULATED_BOARD", str(board.folder))
        yield board


@pytest.fixture(params=CONNECTIONS.kinds())
def options(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return a connection's name, and what it must know to reach something in a test."""
    if request.param == "ssh":
        return "ssh", request.getfixturevalue("loopback").options()
    if request.param == "emulated":
        request.getfixturevalue("board")
    return request.param, {}


@pytest.fixture
def connection(options: tuple[str, dict[str, Any]]) -> Iterator[Connection]:
    made = CONNECTIONS.create(*options)
    yield made
    made.close()


def test_files_go_there_and_come_back(connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"\0\1")
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "two").write_text("2")
    assert connection.put(tmp_path / "one", "a/one").endswith("a/one")
    connection.put(folder, "many")
    connection.get("a/one", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"\0\1"
    connection.get("many/deep/two", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "2"
    with pytest.raises(TargetError):
        connection.get("nothing", tmp_path / "back")


def test_lines_go_there_and_come_back(connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    place = connection.put(tmp_path / "echo.py", "echo.py")
    with (tmp_path / "log").open("wb") as log:
        channel = connection.start([place], log)
        for text in ("abc", "x" * 300_000, "é"):
            channel.send(text)
            assert channel.receive(60) == text[::-1]
        with pytest.raises(TargetError):
            channel.receive(0.01)
        channel.send("end")
        with pytest.raises(TargetError):
            channel.receive(60)
        channel.close()
    assert (tmp_path / "log").read_text() == "noise\n"


def test_close_ends_a_worker_that_does_not_listen(connection: Connection, tmp_path: Path) -> None:
    deaf = "import os, signal, sys\nprint(os.getpid(), flush=True)\n"
    deaf += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()\n"
    (tmp_path / "deaf.py").write_text(deaf)
    place = connection.put(tmp_path / "deaf.py", "deaf.py")
    with (tmp_path / "log").open("wb") as log:
        process = int(connection.start([place], log).receive(60))
        connection.close()
    if type(connection).__name__ == "EmulatedConnection":
        return  # its processes have numbers of their own, and its folder is not ours to see
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not Path(place).exists()


def test_a_python_that_is_not_there(options: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, given = options

    def begin() -> None:
        broken = {**given, "python": "/no/python"}
        connection = CONNECTIONS.create(name, broken)
        with contextlib.closing(connection), (tmp_path / "log").open("wb") as log:
            connection.start(["-c", ""], log)

    with pytest.raises(TargetError, match="/no/python"):
        begin()
