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

from hwbench.backends import _tvm_there, _tvm_tuning
from hwbench.errors import StageError, TargetError
from hwbench.kernels import choose
from hwbench.kernels.build import Machine
from hwbench.protocols import Channel, Connection
from hwbench.records import PluginSpec
from hwbench.registry import CONNECTIONS

_SILENCE = 120.0
_WAIT = 3600
"""Seconds without an answer, and seconds to wait for a board that another hand tunes on."""


class Board:
    """A board that times kernels, as `_tvm_tuning.Timer` has it."""

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        folder: Path,
        made: Machine,
        linker: Callable[..., Any] | None,
    ) -> None:
        """Use a session in which `_tvm_there` runs; libraries are written into `folder`."""
        self._connection = connection
        self._channel = channel
        self._folder = folder
        self._made = made
        self._linker = linker
        self._sent = 0

    def seconds(self, module: Any, plain: Any, best: float | None = None) -> float | None:
        """Return the shortest of a few calls there; None if it does not compile or run."""
        library = self._ship(module)
        if library is None:
            return None
        hopeless = None if best is None else _tvm_tuning.HOPELESS * best
        found = self._rounds([library], plain, _tvm_tuning.CALLS + 1, hopeless)
        return min(once for (once,) in found[1:]) if found else None

    def race(self, modules: Sequence[Any], plain: Any) -> list[float]:
        """Return the seconds of schedules, timed there in turns."""
        import numpy as np

        shipped = [library for m in modules if (library := self._ship(m)) is not None]
        found = self._rounds(shipped, plain, choose.ROUNDS + 1, None)
        if not found or len(shipped) < len(modules):
            raise StageError("compile", "kernels that were timed on the board no longer run there")
        # The quartile: what else runs there only ever adds time.
        return [float(t) for t in np.quantile(found[1:], 0.25, axis=0)]

    def _rounds(
        self, libraries: Sequence[str], plain: Any, rounds: int, enough: float | None
    ) -> list[list[float]]:
        """Return the seconds of each library, round by round; nothing if one does not run."""
        job = {
            "libraries": libraries,
            "inputs": _tvm_tuning.inputs_of(plain),
            "rounds": rounds,
            "seconds": _tvm_tuning.ROUNDS,
            "enough": enough,
        }
        try:
            self._channel.send(json.dumps(job))
            answer = json.loads(self._channel.receive(_SILENCE))
        except TargetError as error:
            raise _lost(error) from error
        found: list[list[float]] = answer.get("rounds", [])
        return found

    def _ship(self, module: Any) -> str | None:
        library = _tvm_tuning.compiled(module, self._made)
        if library is None:
            return None
        self._sent += 1
        file = self._folder / f"kernel-{self._sent}.so"
        library.export_library(str(file), fcompile=self._linker)
        try:
            return self._connection.put(file, file.name)
        except TargetError as error:
            raise _lost(error) from error
        finally:
            file.unlink()


@contextlib.contextmanager
def opened(spec: PluginSpec, made: Machine, linker: Callable[..., Any] | None) -> Iterator[Board]:
    """Yield a board that times kernels, for us alone.

    Raises `StageError` when it cannot be reached, or is emulated: its times say nothing.
    """
    options = dict(spec.options)
    if "wait" in options:
        options["wait"] = max(options["wait"], _WAIT)
    with contextlib.ExitStack() as open_:
        try:
            connection = CONNECTIONS.create(spec.kind, options)
            open_.callback(connection.close)
            folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
            place = connection.put(Path(_tvm_there.__file__), "there.py")
            log = open_.enter_context((folder / "log").open("w+b"))
            channel = connection.start([place, str(made.threads)], log)
            hello = json.loads(channel.receive(_SILENCE))
        except TargetError as error:
            raise _lost(error) from error
        if hello["emulated"]:
            raise StageError(
                "compile",
                "kernels cannot be tuned on an emulated board: its times say nothing",
                mend="leave tuning out for this target, or attach a real board",
            )
        yield Board(connection, channel, folder, made, linker)


def _lost(error: TargetError) -> StageError:
    return StageError(
        "compile", f"tuning on the board: {error.what}", where=error.where, mend=error.mend
    )
