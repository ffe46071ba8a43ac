"""The emulated board of the tests: built once for all of them, switched on and off at will."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwbench import boards, config, files
from hwbench.connections import emulated
from hwbench.connections._board import Board
from hwbench.errors import TargetError

REPOSITORY = Path(__file__).parents[1]


def folder() -> Path:
    """Return where the tests' board is built: once a checkout, unless the environment says."""
    if os.environ.get(emulated.FOLDER):
        return emulated.folder()
    return REPOSITORY / ".hwbench/board"


def built() -> Path:
    """Return the folder of the board, built if need be; skips where that cannot be done."""
    place = folder()
    try:
        boards.emulate(place, [s.kind for s in config.load_target(boards.EMULATED).backends])
    except TargetError as error:
        pytest.skip(f"no emulated board: {error}")
    return place


@contextlib.contextmanager
def ours() -> Iterator[Path]:
    """Yield the folder of the board, ours alone: tests run side by side, and it has one client."""
    place = built()
    with files.locked(place.parent / f".{place.name}.tests", wait=True):
        yield place


@contextlib.contextmanager
def running(home_size: str = "1g") -> Iterator[Board]:
    """Yield a board that is switched on, for us alone; skips where the kernel cannot."""
    with ours() as place:
        try:
            board = Board(place, home_size)
        except TargetError as error:
            pytest.skip(f"no emulated board: {error}")
        with contextlib.closing(board):
            yield board


def cut(board: Board) -> int:
    """Kill the servers of all lines to the board, as a network does; return how many."""
    servers = [pid for pid in _below(board.pid) if b"sshd" in _command(pid)]
    for pid in servers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(servers)


def _below(pid: int) -> list[int]:
    """Return every process that descends from one."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(word) for word in found.read_text().split()] if found.exists() else []
    return [*children, *(inner for child in children for inner in _below(child))]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
