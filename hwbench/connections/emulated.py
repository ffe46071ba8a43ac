"""An emulated board on this machine, reached over ssh like a real one. Nothing here is measured.

Everything that runs there knows that it is emulated (`hwbench.conditions.emulated`), so that times,
memory and energy are not taken there at all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hwbench.connections import _board, ssh
from hwbench.protocols import Channel, Connection
from hwbench.records import PluginSpec
from hwbench.traits import ConnectionTraits

TRAITS = ConnectionTraits(
    requires={},
    remote=False,
    interactive=True,
    provisionable=False,
    offline=False,
    emulated=True,
)
THERE = PluginSpec("emulated")
"""The emulated board, as a target's connection."""
FOLDER = "HWBENCH_EMULATED_BOARD"


@dataclass(frozen=True, slots=True)
class Options:
    """``python``: the interpreter there (empty: its own). ``home``: the size of its disk."""

    python: str = ""
    home: str = "1g"


def folder() -> Path:
    """Return where the board is built: ``.hwbench/board`` here, or what the environment says."""
    return Path(os.environ.get(FOLDER) or ".hwbench/board").absolute()


def is_built() -> bool:
    """Return whether there is an emulated board here."""
    return _board.is_built(folder())


def made_of() -> str:
    """Return what the emulated board here was built from, as a hash; empty: there is none."""
    return (folder() / "built").read_text().strip() if is_built() else ""


class EmulatedConnection:
    """A session on a board that is switched on for it, unless it runs already."""

    def __init__(self, options: Options) -> None:
        """Switch the board on and connect; raises `TargetError` as both do."""
        place = folder()
        _board.built(place)
        self._board = None if _board.answers(place) else _board.Board(place, options.home)
        config = str(place / "keys/ssh_config")
        given = ssh.Options(host="raspberrypi", config=config, python=options.python)
        try:
            self._inner = ssh.SshConnection(given)
        except BaseException:
            self._off()
            raise

    def put(self, source: Path, name: str) -> str:
        """Copy a file or a folder."""
        return self._inner.put(source, name)

    def get(self, name: str, destination: Path) -> None:
        """Copy a file back."""
        self._inner.get(name, destination)

    def start(self, arguments: Sequence[str], log: IO[bytes]) -> Channel:
        """Start the board's Python with these arguments."""
        return self._inner.start(arguments, log)

    def close(self) -> None:
        """End the session, and switch the board off if it was switched on for it."""
        self._inner.close()
        self._off()

    def _off(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


PLUGIN: type[Connection] = EmulatedConnection
