"""A board reached by OpenSSH: the user's own configuration, keys and known hosts, nothing else.

One ssh process carries one session. On the board a session daemon (`_session_daemon.py`) holds
the lease, takes files in by the hash of their content, runs the worker and writes down what it
says, so that a cut line is only a pause: we connect again and hear what was missed.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hwbench import files
from hwbench.connections._lines import EndedError
from hwbench.connections._link import Link, bridge, checked_host
from hwbench.errors import TargetError
from hwbench.protocols import Channel, Connection
from hwbench.traits import ConnectionTraits

TRAITS = ConnectionTraits(
    requires={}, remote=True, interactive=True, provisionable=True, offline=False
)
_CHUNK = 1 << 18
_REPLY = 120.0
_BETWEEN = 1.0
_GOODBYE = 20.0
"""Seconds for a reply, between two attempts to connect again, and for the end of a session."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the board is reached.

    ``host``: ``user@name`` or a Host of your ssh configuration; left empty in a target's file and
    said by ``--host``, ``HWBENCH_<TARGET>_HOST`` or your own hosts.yaml. ``port``: 0 is what the
    configuration says. ``config``: a configuration file instead of your own. ``python``: the
    interpreter there that has the runtimes (empty: that of ``hwbench board setup``, else
    python3; a bare name such as ``python3.11``: the environment that setup made of it).
    ``folder``: where hwbench keeps its things there. ``patience``: seconds to connect,
    and to go on trying when the line is cut. ``wait``: seconds to wait for a board that is in use.
    """

    host: str = ""
    port: int = 0
    config: str = ""
    python: str = ""
    folder: str = "~/.hwbench"
    patience: int = 30
    wait: int = 0


class SshConnection:
    """A session on a board."""

    def __init__(self, options: Options) -> None:
        """Connect and take the board's lease; raises `TargetError` when that cannot be."""
        self._options = options
        self._host = checked_host(options.host)
        self._session = f"hwbench-{secrets.token_hex(6)}"
        self._heard = 0
        self._entries: deque[Mapping[str, Any]] = deque()
        self._unheard: deque[Mapping[str, Any]] = deque()
        self._place: PurePosixPath | None = None
        self._link: Link | None = None
        self._channel: SshChannel | None = None
        self._connect_first()

    # ------------------------------------------------------------------------ the protocol

    def put(self, source: Path, name: str) -> str:
        """Copy a file or a folder, if the board does not have its content already."""
        paths = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
        sums = {path: _sum(path) for path in paths}
        lacks = self._ask({"do": "lacks", "sums": sorted(set(sums.values()))})["lacks"]
        for path in {sums[p]: p for p in paths if sums[p] in lacks}.values():
            self._send_file(path, sums[path])
        placed = {
            name if path == source else f"{name}/{path.relative_to(source).as_posix()}": sums[path]
            for path in paths
        }
        self._ask({"do": "place", "files": placed})
        assert self._place is not None
        return str(self._place / name)

    def get(self, name: str, destination: Path) -> None:
        """Copy a file back; it is there whole or not at all."""
        body: list[bytes] = []
        self._ask({"do": "get", "name": name}, body_to=body)
        files.write(destination, b"".join(body))

    def start(self, arguments: Sequence[str], log: IO[bytes]) -> Channel:
        """Start the board's Python with these arguments; ends the one before it."""
        self._entries.clear()
        self._unheard.clear()
        self._ask({"do": "start", "arguments": list(arguments)})
        self._channel = SshChannel(self, log)
        return self._channel

    def close(self) -> None:
        """End what runs there, remove the session's folder, give the lease back."""
        if self._link is None:
            return
        # Without a line the daemon ends by itself when nobody comes back.
        with contextlib.suppress(TargetError):
            self._link.send({"do": "bye"})
            while "stopped" not in self._frame(_GOODBYE):
                pass
        self._link.close()
        self._link = None

    # ------------------------------------------------------------------------ the worker's lines

    def say(self, line: str) -> None:
        """Send the worker a line; it arrives once, even if the line is cut meanwhile."""
        number = self._unheard[-1]["number"] + 1 if self._unheard else 1
        frame = {"do": "say", "number": number, "line": line}
        self._unheard.append(frame)
        try:
            self._linked().send(frame)
        except EndedError as error:
            self._connect_again(error)

    def entry(self, timeout: float) -> Mapping[str, Any]:
        """Return the next entry of the journal: what the worker said, or that it has ended."""
        deadline = time.monotonic() + timeout
        while not self._entries:
            try:
                self._keep(self._frame(max(deadline - time.monotonic(), 0.0)))
            except EndedError as error:
                self._connect_again(error)
        return self._entries.popleft()

    def stop(self) -> list[Mapping[str, Any]]:
        """End the worker and everything it started; return what it said and nobody heard."""
        if self._link is not None:
            with contextlib.suppress(TargetError):
                self._ask({"do": "stop"})
        left = list(self._entries)
        self._entries.clear()
        return left

    @property
    def host(self) -> str:
        """The host as the user wrote it."""
        return self._host

    # ------------------------------------------------------------------------ the line

    def _ask(
        self, frame: Mapping[str, Any], body_to: list[bytes] | None = None, file: Path | None = None
    ) -> Mapping[str, Any]:
        """Return the answer to a request, asked again after every cut of the line."""
        while True:
            try:
                self._linked().send(frame, _chunks(file) if file else ())
                answer = self._answer(body_to)
            except EndedError as error:
                self._connect_again(error)
                continue
            if "error" in answer:
                what = str(answer["error"])
                raise TargetError(what, where=self._host, mend=_mend(what))
            return answer

    def _answer(self, body_to: list[bytes] | None) -> Mapping[str, Any]:
        while True:
            frame = self._frame(_REPLY)
            if body_to is not None and "size" in frame:
                body_to[:] = self._linked().body(frame["size"], _REPLY)
            if "n" not in frame:
                return frame
            self._keep(frame)

    def _frame(self, timeout: float) -> Mapping[str, Any]:
        return self._linked().receive(timeout)

    def _keep(self, frame: Mapping[str, Any]) -> None:
        """Keep an entry of the journal for later."""
        if frame["n"] >= self._heard:
            self._heard = frame["n"] + 1
            self._entries.append(frame)

    def _send_file(self, path: Path, content: str) -> None:
        head = {"do": "blob", "sum": content, "size": path.stat().st_size}
        while "again" in self._ask(head, file=path):
            pass

    def _linked(self) -> Link:
        if self._link is None:
            raise TargetError("the session is closed", where=self._host)
        return self._link

    def _connect_first(self) -> None:
        end = time.monotonic() + self._options.wait
        while True:
            try:
                self._greet(self._bridge(create=True))
            except TargetError as error:
                if "in use" not in error.what or time.monotonic() >= end:
                    raise
                time.sleep(_BETWEEN)
            else:
                return

    def _connect_again(self, cause: EndedError) -> None:
        """Come back to the session that is there; raises `TargetError` when it cannot be."""
        end = time.monotonic() + self._options.patience
        self._linked().close()
        while True:
            try:
                self._greet(self._bridge(create=False))
            except TargetError as error:
                lost = "lost" in error.what
                if lost or time.monotonic() >= end:
                    self._link = None
                    what = error.what if lost else f"the line was cut: {error.what}"
                    mend = "give the same command again: it goes on with what is missing"
                    raise TargetError(what, where=self._host, mend=mend) from cause
                time.sleep(_BETWEEN)
            else:
                return

    def _greet(self, link: Link) -> None:
        self._link = link
        self._place = PurePosixPath(link.greeting["hello"])
        taken = link.greeting["taken"]
        for frame in self._unheard:
            if frame["number"] > taken:
                link.send(frame)

    def _bridge(self, *, create: bool) -> Link:
        options = self._options
        request = {
            "session": self._session,
            "create": create,
            "folder": options.folder,
            "python": options.python,
            "who": f"{getpass.getuser()}@{socket.gethostname()} (process {os.getpid()})",
            "grace": 2 * options.patience,
            "heard": self._heard,
        }
        ssh = {"host": self._host, "port": options.port, "config": options.config}
        return bridge(
            {**ssh, "connect_timeout": options.patience},
            options.python or "python3",
            request,
            _REPLY,
        )


class SshChannel:
    """The worker there, by its standard input and output."""

    def __init__(self, connection: SshConnection, log: IO[bytes]) -> None:
        """Talk to the worker that was just started."""
        self._connection = connection
        self._log = log

    def send(self, line: str) -> None:
        """Send one line; raises `TargetError` when the board is gone."""
        self._connection.say(line)

    def receive(self, timeout: float) -> str:
        """Return the next line; raises `TargetError` after `timeout` seconds, or at its end."""
        deadline = time.monotonic() + timeout
        while True:
            entry = self._connection.entry(max(deadline - time.monotonic(), 0.0))
            if "line" in entry:
                return str(entry["line"])
            if "err" in entry:
                self._log.write(str(entry["err"]).encode())
                self._log.flush()
            else:
                raise EndedError("the worker has ended", where=self._connection.host)

    def close(self) -> None:
        """End the worker and everything it started; what it said last goes to the log."""
        for entry in self._connection.stop():
            self._log.write(str(entry.get("err", "")).encode())


def _sum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while data := stream.read(_CHUNK):
            yield data


def _mend(what: str) -> str:
    if "space" in what.lower():
        return "make room on the board (df -h); finished work is kept, give the same command again"
    return ""


PLUGIN: type[Connection] = SshConnection
