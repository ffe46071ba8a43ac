"""Timing kernels on the board they are for, through the session of its connection.

Not TVM's RPC: that listens on a port and runs whatever it is sent. A session of ours has ssh's
keys, the board's lease and its clean-up already, and `_tvm_there` does nothing but time.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hwbench import registry
from hwbench.backends import _tvm_there
from hwbench.errors import StageError, TargetError
from hwbench.protocols import Channel, Connection
from hwbench.records import PluginSpec

_SILENCE = 120.0
_WAIT = 3600
"""Seconds without an answer, and seconds to wait for a board that another hand tunes on."""

Linker = Callable[[Any, Path], None]
"""Writes a compiled module as a shared library for the board."""


class Board:
    """A board that times kernels."""

    def __init__(self, connection: Connection, channel: Channel, folder: Path) -> None:
        """Use a session in which `_tvm_there` runs; libraries are written into `folder`."""
        self._connection = connection
        self._channel = channel
        self._folder = folder
        self._sent = 0

    def rounds(
        self,
        modules: Sequence[Any],
        inputs: Sequence[tuple[Sequence[int], str]],
        *,
        rounds: int,
        seconds: float,
        write: Linker,
        enough: float | None = None,
    ) -> list[list[float]]:
        """Return the seconds of each compiled module there, round by round, the first to warm up.

        ``inputs`` are shapes and dtypes. It stops after so many `rounds` or `seconds`, or when
        they take more than `enough`. Raises `StageError` when one does not run there.
        """
        try:
            libraries = [self._ship(module, write) for module in modules]
            job = {"libraries": libraries, "inputs": [[list(s), d] for s, d in inputs]}
            job |= {"rounds": rounds, "seconds": seconds, "enough": enough}
            self._channel.send(json.dumps(job))
            answer = json.loads(self._channel.receive(_SILENCE))
        except TargetError as error:
            raise _lost(error) from error
        if "failure" in answer:
            raise StageError("compile", f"a kernel does not run on the board: {answer['failure']}")
        found: list[list[float]] = answer["rounds"]
        return found

    def _ship(self, module: Any, write: Linker) -> str:
        self._sent += 1
        file = self._folder / f"kernel-{self._sent}.so"
        write(module, file)
        place = self._connection.put(file, file.name)
        file.unlink()
        return place


@contextlib.contextmanager
def opened(spec: PluginSpec, threads: int) -> Iterator[Board]:
    """Yield a board that times kernels, for us alone.

    Raises `StageError` when it cannot be reached, or is emulated: its times say nothing.
    """
    options = dict(spec.options)
    if "wait" in options:
        options["wait"] = max(options["wait"], _WAIT)
    with contextlib.ExitStack() as open_:
        try:
            connection: Connection = registry.create("connections", spec.kind, options)
            open_.callback(connection.close)
            folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
            place = connection.put(Path(_tvm_there.__file__), "there.py")
            log = open_.enter_context((folder / "log").open("w+b"))
            channel = connection.start([place, str(threads)], log)
            hello = json.loads(channel.receive(_SILENCE))
        except TargetError as error:
            raise _lost(error) from error
        if hello["emulated"]:
            raise StageError(
                "compile",
                "kernels cannot be tuned on an emulated board: its times say nothing",
                mend="leave tuning out for this target, or attach a real board",
            )
        yield Board(connection, channel, folder)


def _lost(error: TargetError) -> StageError:
    return StageError(
        "compile", f"tuning on the board: {error.what}", where=error.where, mend=error.mend
    )
