"""What a board runs for its client: the daemon of one session, and the bridge that speaks to it.

It travels as text over ssh and is run by whatever Python 3 the board has, so it imports the
standard library alone and nothing of hwbench. The *bridge* lives as long as one ssh connection
and only copies bytes. The *session daemon* has a unix socket in the session's folder: it
holds the lease, receives files, starts the worker and writes down everything the worker says.
When the line is cut the daemon and its worker go on, and the next bridge gets what was missed;
when nobody comes for `grace` seconds, or another client asks, the daemon ends everything.

A frame is a line of JSON; one with ``size`` is followed by that many bytes. Below the home
(``~/.hwbench``): ``lease``, ``blobs/SHA256`` and ``sessions/NAME/`` with the socket ``k``, the
journal ``said.jsonl`` and the folder ``work`` in which the worker lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

SESSION_MARKER = "HWBENCH_SESSION"
_STALL = 30.0
"""Seconds after which a bridge that does not take what is sent to it is given up."""
_END = 5.0
"""Seconds a worker has to end in good order."""
_ATTEMPTS = 4
_UNUSED_DAYS = 14


def main(request: Mapping[str, Any]) -> None:
    """Be the bridge of the session that is asked for; start its daemon first if it is new."""
    home = Path(request["folder"]).expanduser().absolute()
    session = home / "sessions" / request["session"]
    if request["create"]:
        answer = _start_daemon(home, session, request)
    else:
        answer = {} if (session / "k").exists() else {"lost": "no such session is on the board"}
    peer = None
    if not answer:
        try:
            peer = _connected(session)
        except OSError as error:
            answer = {"lost": f"its daemon does not answer: {error.strerror}"}
    if peer is None:
        os.write(1, json.dumps(answer).encode() + b"\n")
        return
    _bridge(peer)


def _bridge(peer: socket.socket) -> None:
    while True:
        watched: list[Any] = [0, peer]
        ready, _, _ = select.select(watched, [], [])
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                return
            peer.sendall(data)
        if peer in ready:
            data = peer.recv(1 << 16)
            if not data:
                return
            while data:
                data = data[os.write(1, data) :]


def _connected(session: Path) -> socket.socket:
    # A relative path cannot be too long for the kernel.
    os.chdir(session)
    peer = socket.socket(socket.AF_UNIX)
    peer.connect("k")
    return peer


def _start_daemon(home: Path, session: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return nothing once a daemon listens, or why there is none."""
    readable, writable = os.pipe()
    if os.fork():
        os.close(writable)
        with os.fdopen(readable, "rb") as stream:
            raw = stream.read()
        os.wait()
        answer: dict[str, Any] = json.loads(raw or b'{"error": "the session daemon did not start"}')
        return answer
    os.close(readable)
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _serve(home, session, request, writable)
    os._exit(0)


def _serve(home: Path, session: Path, request: Mapping[str, Any], writable: int) -> None:
    def answer(content: Mapping[str, Any]) -> None:
        os.write(writable, json.dumps(content).encode())
        os.close(writable)

    try:
        for folder in (home, home / "sessions", home / "blobs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lease, holder = _lease(home, request)
        if lease is None:
            return answer({"busy": holder})
        _tidy(home)
        (session / "work").mkdir(mode=0o700, parents=True)
        os.chdir(session)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind("k")
        listening.listen(4)
        daemon = SessionDaemon(home, session, listening, request)
    except OSError as error:
        return answer({"error": f"the board cannot hold a session: {error.strerror}"})
    answer({})
    try:
        daemon.live()
    finally:
        shutil.rmtree(session, ignore_errors=True)
        os.close(lease)
    # Last of all: whoever hears it may open the next session at once.
    daemon.farewell()
    return None


def _lease(home: Path, request: Mapping[str, Any]) -> tuple[int | None, Any]:
    """Return the lock of the board, or None and who holds it; a client that is away loses it."""
    fd = os.open(home / "lease", os.O_RDWR | os.O_CREAT, 0o600)
    holder: Any = {}
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError):
                holder = json.loads(os.pread(fd, 4096, 0))
            if _yields(home, holder):
                _until_free(fd)
            else:  # a client that has just gone is still there for a moment
                select.select([], [], [], 0.5)
            continue
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        text = json.dumps({"who": request["who"], "session": request["session"], "since": since})
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
        return fd, None
    os.close(fd)
    return None, holder


def _yields(home: Path, holder: Mapping[str, Any]) -> bool:
    """Ask the holder to go; it does when its own client is not there."""
    session = home / "sessions" / str(holder.get("session", "?"))
    try:
        with contextlib.closing(_connected(session)) as peer:
            peer.settimeout(10)
            peer.sendall(b'{"do": "yield"}\n')
            return b"true" in peer.recv(100)
    except OSError:
        return False


def _until_free(fd: int) -> None:
    end = time.monotonic() + 2 * _END
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_UN)
            return
        select.select([], [], [], 0.1)


def _tidy(home: Path) -> None:
    """Remove what no living session can own: we hold the lease."""
    for left in (home / "sessions").iterdir():
        _kill_marked(left.name)
        shutil.rmtree(left, ignore_errors=True)
    oldest = time.time() - _UNUSED_DAYS * 86400
    for blob in (home / "blobs").iterdir():
        if blob.stat().st_mtime < oldest or blob.name.startswith("."):
            blob.unlink()


def _kill_marked(session: str) -> None:
    """Kill every process that was started in a session, whatever group it made for itself."""
    end = time.monotonic() + _END
    while (pids := _marked(session)) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        # The kernel takes a moment; whoever measures next must not meet them.
        select.select([], [], [], 0.02)


def _marked(session: str) -> list[int]:
    mark = f"{SESSION_MARKER}={session}".encode()
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                processes.append(int(folder.name))
    return processes


def _interpreter(venv: Path, requested: str) -> str:
    """Return which Python a worker gets: the one asked for, or that of ``board setup``.

    A bare name (``python3.11``) says which Python, not which packages: the environment that was
    made of it stands for it. A path is meant as it is.
    """
    if not venv.exists():
        return requested or sys.executable
    named = "" if os.sep in requested else shutil.which(requested)
    is_its_base = named and os.path.realpath(named) == os.path.realpath(venv)
    return str(venv) if not requested or is_its_base else requested


class SessionDaemon:
    """One session: its files, its worker, its journal, and the bridge that is there now."""

    def __init__(
        self, home: Path, session: Path, listening: socket.socket, request: Mapping[str, Any]
    ) -> None:
        """Take over a socket that listens."""
        self._blobs = home / "blobs"
        self._session = session
        self._work = session / "work"
        self._listening = listening
        self._python = _interpreter(home / "venv" / "bin" / "python", request["python"])
        self._grace = float(request["grace"])
        self._peer: _Peer | None = None
        self._alone_since = time.monotonic()
        self._worker: subprocess.Popen[bytes] | None = None
        self._rests: dict[int, bytearray] = {}
        self._journal = (session / "said.jsonl").open("w+b", buffering=0)
        self._offsets: list[int] = []
        self._end = 0
        self._spilt: dict[int, bytes] = {}
        self._taken = 0
        self._over = False

    def live(self) -> None:
        """Serve until the client says goodbye, stays away, or has to make room."""
        while not self._over:
            watched: list[Any] = [self._listening, *self._rests]
            if self._peer is not None:
                watched.append(self._peer.socket)
            ready, _, _ = select.select(watched, [], [], 1.0)
            for fd in [fd for fd in self._rests if fd in ready]:
                self._hear_worker(fd)
            if self._peer is not None and self._peer.socket in ready:
                self._hear_peer(self._peer)
            if self._listening in ready:
                self._welcome()
            if self._peer is None and time.monotonic() - self._alone_since > self._grace:
                break
        self._stop()

    # ------------------------------------------------------------------------ the client

    def _welcome(self) -> None:
        """Take the newest bridge for the client; one that only asks for room gets an answer."""
        incoming, _ = self._listening.accept()
        incoming.settimeout(_STALL)
        newcomer = _Peer(incoming)
        try:
            frame = newcomer.wait()
            if frame["do"] == "yield":
                self._over = self._peer is None
                newcomer.say({"yielded": self._over})
                return
            newcomer.say({"hello": str(self._work), "taken": self._taken})
            for number in range(int(frame["heard"]), len(self._offsets)):
                newcomer.say_raw(self._entry(number))
        except (OSError, ValueError, KeyError):
            incoming.close()
            return
        if self._peer is not None:
            self._peer.socket.close()
        self._peer = newcomer

    def _hear_peer(self, peer: _Peer) -> None:
        try:
            if not peer.fill():
                raise OSError(errno.EPIPE, "gone")
            while (frame := peer.frame()) is not None:
                answer = self._do(peer, frame)
                if answer is not None:
                    peer.say(answer)
        except (OSError, ValueError):
            peer.socket.close()
            self._peer, self._alone_since = None, time.monotonic()

    def _do(self, peer: _Peer, frame: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the answer to a frame, if it has one that is not on its way already."""
        do: Any = {
            "say": self._say,
            "lacks": self._lacks,
            "blob": lambda f: self._blob(peer, _plain(f["sum"]), int(f["size"])),
            "place": self._place,
            "get": lambda f: self._get(peer, f["name"]),
            "start": self._start,
            "stop": self._end_worker,
            "bye": self._bye,
        }[frame["do"]]
        try:
            answer: Mapping[str, Any] | None = do(frame)
        except OSError as error:
            answer = {"error": error.strerror or str(error)}
        return answer

    def _lacks(self, frame: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"lacks": [s for s in frame["sums"] if not (self._blobs / _plain(s)).exists()]}

    def _end_worker(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self._stop()
        return {"stopped": True}

    def _bye(self, _: Mapping[str, Any]) -> None:
        self._over = True

    def farewell(self) -> None:
        """Tell the client that all is over and cleaned up."""
        if self._peer is not None:
            with contextlib.suppress(OSError):
                self._peer.say({"stopped": True})

    def _blob(self, peer: _Peer, name: str, size: int) -> Mapping[str, Any]:
        """Take in a file under the hash of its content."""
        part = self._blobs / f".{name}"
        trouble: OSError | None = None
        summed = hashlib.sha256()
        stream: IO[bytes] | None = None
        try:
            stream = part.open("wb", buffering=0)
        except OSError as error:
            trouble = error
        # The bytes come whether there is room or not.
        for data in peer.take(size):
            summed.update(data)
            try:
                if trouble is None and stream is not None:
                    stream.write(data)
            except OSError as error:
                trouble = error
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
        if trouble is None and summed.hexdigest() == name:
            part.chmod(0o444)
            part.replace(self._blobs / name)
            return {"kept": True}
        part.unlink(missing_ok=True)
        if trouble is None:
            return {"error": "the file arrived broken"}
        if trouble.errno == errno.ENOSPC and self._made_room():
            return {"again": True}
        return {"error": trouble.strerror}

    def _made_room(self) -> bool:
        """Remove the files of earlier sessions; return whether there were any."""
        others = [b for b in self._blobs.iterdir() if b.stat().st_nlink == 1]
        for blob in others:
            blob.unlink()
        return bool(others)

    def _place(self, frame: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give files of known content their names in the worker's folder."""
        for name, content in frame["files"].items():
            blob, path = self._blobs / _plain(content), self._inside(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.utime(blob)
            try:
                os.link(blob, path)
            except OSError:  # a file system without links
                shutil.copyfile(blob, path)
        return {"placed": True}

    def _get(self, peer: _Peer, name: str) -> None:
        data = self._inside(name).read_bytes()
        peer.say_raw(json.dumps({"size": len(data)}).encode() + b"\n" + data)

    def _inside(self, name: str) -> Path:
        path = Path(os.path.normpath(self._work / name))
        if self._work not in path.parents:
            raise OSError(errno.EACCES, f"{name} is outside of the session's folder")
        return path

    # ------------------------------------------------------------------------ the worker

    def _start(self, frame: Mapping[str, Any]) -> Mapping[str, Any]:
        self._stop()
        try:
            self._worker = subprocess.Popen(
                [self._python, *frame["arguments"]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._work,
                env={**os.environ, SESSION_MARKER: self._session.name},
                start_new_session=True,
            )
        except OSError as error:
            return {"error": f"cannot start {self._python}: {error.strerror}"}
        self._taken = 0
        for stream in (self._worker.stdout, self._worker.stderr):
            assert stream is not None
            self._rests[stream.fileno()] = bytearray()
        return {"started": self._worker.pid}

    def _say(self, frame: Mapping[str, Any]) -> None:
        """Hand on a line that was not handed on before."""
        if frame["number"] <= self._taken or self._worker is None:
            return
        self._taken = frame["number"]
        assert self._worker.stdin is not None
        with contextlib.suppress(OSError):  # its end is in the journal
            self._worker.stdin.write(frame["line"].encode() + b"\n")
            self._worker.stdin.flush()

    def _hear_worker(self, fd: int) -> None:
        worker = self._worker
        assert worker is not None
        assert worker.stdout is not None
        data, rest = os.read(fd, 1 << 18), self._rests[fd]
        if fd != worker.stdout.fileno():
            if data:
                self._write({"err": data.decode(errors="replace")})
        elif data:
            rest += data
            *lines, last = bytes(rest).split(b"\n")
            self._rests[fd] = bytearray(last)
            for line in lines:
                self._write({"line": line.decode(errors="replace")})
        if not data:
            del self._rests[fd]
            if not self._rests:
                self._write({"ended": True})

    def _write(self, entry: Mapping[str, Any]) -> None:
        """Write an entry into the journal, and send it to the client if it is there."""
        number = len(self._offsets)
        data = json.dumps({**entry, "n": number}).encode() + b"\n"
        self._offsets.append(self._end)
        try:
            whole = os.pwrite(self._journal.fileno(), data, self._end) == len(data)
        except OSError:
            whole = False
        if whole:
            self._end += len(data)
        else:  # a full disk must not cost what was measured
            self._spilt[number] = data
        if self._peer is None:
            return
        try:
            self._peer.say_raw(data)
        except OSError:
            self._peer.socket.close()
            self._peer, self._alone_since = None, time.monotonic()

    def _entry(self, number: int) -> bytes:
        if number in self._spilt:
            return self._spilt[number]
        following = self._offsets[number + 1 :]
        end = following[0] if following else self._end
        return os.pread(self._journal.fileno(), end - self._offsets[number], self._offsets[number])

    def _stop(self) -> None:
        """End the worker: politely by the end of its input, then with everything it started."""
        worker = self._worker
        if worker is None:
            return
        assert worker.stdin is not None
        with contextlib.suppress(OSError):
            worker.stdin.close()
        end = time.monotonic() + _END
        while self._rests and time.monotonic() < end:
            ready, _, _ = select.select(list(self._rests), [], [], max(end - time.monotonic(), 0))
            for fd in ready:
                self._hear_worker(fd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        _kill_marked(self._session.name)
        worker.wait()
        for stream in (worker.stdout, worker.stderr):
            assert stream is not None
            stream.close()
        self._rests.clear()
        self._worker = None


class _Peer:
    """The other end of a socket: frames in and out."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._buffer = bytearray()

    def fill(self) -> bool:
        data = self.socket.recv(1 << 18)
        self._buffer += data
        return bool(data)

    def frame(self) -> Mapping[str, Any] | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        frame: Mapping[str, Any] = json.loads(self._buffer[:end])
        del self._buffer[: end + 1]
        return frame

    def wait(self) -> Mapping[str, Any]:
        while (found := self.frame()) is None:
            if not self.fill():
                raise OSError(errno.EPIPE, "gone")
        return found

    def take(self, size: int) -> Any:
        """Yield the next `size` bytes as they come."""
        while size:
            if not self._buffer and not self.fill():
                raise OSError(errno.EPIPE, "gone")
            data = bytes(self._buffer[:size])
            del self._buffer[: len(data)]
            size -= len(data)
            yield data

    def say(self, frame: Mapping[str, Any]) -> None:
        self.say_raw(json.dumps(frame).encode() + b"\n")

    def say_raw(self, data: bytes) -> None:
        self.socket.sendall(data)


def _plain(name: str) -> str:
    """Return a hash as it is, and nothing else: it becomes a file's name."""
    if not (len(name) == 64 and set(name) <= set("0123456789abcdef")):
        raise OSError(errno.EINVAL, f"not a hash: {name[:80]!r}")
    return name
