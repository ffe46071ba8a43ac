"""This machine: a temporary folder and a process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hwbench.connections._lines import next_line
from hwbench.errors import TargetError
from hwbench.protocols import Channel, Connection
from hwbench.records import PluginSpec
from hwbench.traits import ConnectionTraits

TRAITS = ConnectionTraits(
    requires={}, remote=False, interactive=True, provisionable=False, offline=False
)
HERE = PluginSpec("local")
"""This machine, as a target's connection."""
_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """``python``: the interpreter that has the runtimes (empty: the one that runs hwbench)."""

    python: str = ""


class LocalChannel:
    """A worker on this machine, by its standard input and output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Talk to a process that was just started."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input = process.stdin
        self._output = process.stdout
        self._buffer = bytearray()

    def send(self, line: str) -> None:
        """Send one line; raises `TargetError` when the worker is gone."""
        try:
            self._input.write(line.encode() + b"\n")
            self._input.flush()
        except OSError as error:
            raise TargetError("the worker has gone", where="local") from error

    def receive(self, timeout: float) -> str:
        """Return the next line; raises `TargetError` after `timeout` seconds, or at its end."""
        return next_line(self._output.fileno(), self._buffer, timeout, "local")

    def close(self) -> None:
        """Close the worker's input, which ends it and its children; kill it if it stays."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            # Its children die with it: they asked the kernel to.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._output.close()


class LocalConnection:
    """A folder that vanishes with the session, and processes that die with us."""

    def __init__(self, options: Options) -> None:
        """Make the session's folder."""
        self._python = options.python or sys.executable
        # The worker removes folders of this name itself when we are killed.
        self._folder = Path(tempfile.mkdtemp(prefix="hwbench-"))
        self._channels: list[LocalChannel] = []

    def put(self, source: Path, name: str) -> str:
        """Copy a file or a folder; returns its path there."""
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)
        except OSError as error:
            raise TargetError(f"cannot copy {source.name} to {target}: {error}") from error
        return str(target)

    def get(self, name: str, destination: Path) -> None:
        """Copy a file back."""
        try:
            shutil.copyfile(self._folder / name, destination)
        except OSError as error:
            raise TargetError(f"cannot copy {name} back: {error}", where="local") from error

    def start(self, arguments: Sequence[str], log: IO[bytes]) -> Channel:
        """Start Python with these arguments; raises `TargetError` when there is none."""
        try:
            process = subprocess.Popen(
                [self._python, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder,
                # Ctrl-C is for us; we end the worker in good order.
                start_new_session=True,
            )
        except OSError as error:
            raise TargetError(
                f"cannot start {self._python}: {error.strerror}",
                where="local",
                mend="name a Python in the target: connection: {kind: local, python: ...}",
            ) from error
        channel = LocalChannel(process)
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        """End what runs and remove the folder."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


PLUGIN: type[Connection] = LocalConnection
