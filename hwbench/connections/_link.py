"""One ssh process and the frames that go through it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwbench.connections import _session_daemon
from hwbench.connections._lines import EndedError, next_bytes, next_line
from hwbench.errors import HwbenchError, TargetError, UserError

# The user's own configuration, keys and known hosts decide; these only keep ssh from asking
# questions, from hanging on a dead line, and from doing more than running one command.
_OPTIONS = {
    "BatchMode": "yes",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}
_BOOT = (
    "import os,sys\n"
    "n=int(sys.argv[1])\n"
    "s=b''\n"
    "while len(s)<n:s+=os.read(0,n-len(s))\n"
    "g={'__name__':'daemon'}\n"
    "exec(compile(s,'daemon','exec'),g)\n"
    "import json\n"
    "g['main'](json.loads(sys.argv[2]))\n"
)
_SHELL = " '`\"$\\;&<>|(){}*?!#"
_MENDS = (
    ("permission denied", "let your key in there: ssh-copy-id {host}"),
    (
        "host key verification failed",
        "if you know why the key is new, connect once by hand and check its fingerprint: "
        "ssh {host}; hwbench never accepts a key by itself",
    ),
    ("could not resolve", "check the name, or use the board's address"),
    ("connection refused", "switch ssh on there: sudo systemctl enable --now ssh"),
    ("timed out", "is it switched on and in this network? try: ping {name}"),
    ("no route to host", "is it switched on and in this network? try: ping {name}"),
    ("not found", "python3 (3.11 or newer) must be there: sudo apt install python3"),
    ("no such file", "python3 (3.11 or newer) must be there: sudo apt install python3"),
)


def checked_host(host: str) -> str:
    """Return a host as it is; raises `UserError` for what ssh or a shell could take otherwise.

    Your own ssh configuration may put it into a command (``ProxyCommand ... %h``).
    """
    odd = not host.isprintable() or set(host) & set(_SHELL)
    if not host or host.startswith("-") or odd:
        raise UserError(
            f"{host!r} is no host",
            where="connection.host",
            expected="user@name, or a Host of your ~/.ssh/config",
        )
    return host


def command(
    host: str, remote: Sequence[str], *, port: int, config: str, connect_timeout: int
) -> list[str]:
    """Return the ssh command that runs `remote` there, every word of it quoted."""
    words = ["ssh", "-T"]
    if config:
        words += ["-F", config]
    if port:
        words += ["-p", str(port)]
    for name, value in {**_OPTIONS, "ConnectTimeout": str(connect_timeout)}.items():
        words += ["-o", f"{name}={value}"]
    return [*words, "--", checked_host(host), shlex.join(remote)]


class Link:
    """A bridge to the daemon of a session, for as long as the line holds."""

    def __init__(self, ssh: Sequence[str], host: str) -> None:
        """Start ssh with the daemon's source and what is asked of it as its remote command."""
        self.greeting: Mapping[str, Any] = {}
        self._host = host
        self._buffer = bytearray()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the link)
        try:
            self._process = subprocess.Popen(
                ssh,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Ctrl-C is for us; we end the session in good order.
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise TargetError(
                f"cannot start ssh: {error.strerror}",
                where=host,
                mend="apt install openssh-client",
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def send(self, frame: Mapping[str, Any], body: Iterable[bytes] = ()) -> None:
        """Send a frame and the bytes that belong to it; raises `EndedError` on a dead line."""
        self.write(json.dumps(frame).encode() + b"\n")
        for data in body:
            self.write(data)

    def write(self, data: bytes) -> None:
        """Send bytes; raises `EndedError` on a dead line."""
        try:
            self._input.write(data)
            self._input.flush()
        except (OSError, ValueError) as error:
            raise EndedError("the line is dead", where=self._host) from error

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the next frame; raises `EndedError` at the end, `TargetError` after `timeout`."""
        line = next_line(self._output.fileno(), self._buffer, timeout, self._host)
        try:
            frame: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            raise TargetError(
                f"the board's login shell says {line[:80]!r}",
                where=self._host,
                expected="nothing: only the command that hwbench runs may speak",
                mend="make its start-up files (.bashrc, .profile) quiet for shells without a "
                "terminal",
            ) from error
        return frame

    def body(self, size: int, timeout: float) -> Iterator[bytes]:
        """Yield the bytes that belong to a frame."""
        return next_bytes(self._output.fileno(), self._buffer, size, timeout, self._host)

    def close(self) -> None:
        """End ssh; the daemon goes on until it is told otherwise, or nobody comes back."""
        with contextlib.suppress(OSError, ValueError):
            self._input.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()
        self._errors.close()

    def obituary(self) -> TargetError:
        """Return why the line ended, with what ssh said and how to mend it."""
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return TargetError("the line is silent", where=self._host)
        self._errors.seek(0)
        output = self._errors.read().decode(errors="replace").strip()
        what = (output.splitlines() or ["it said nothing"])[-1][:300]
        name = self._host.rpartition("@")[2]
        mend = next((m for sign, m in _MENDS if sign in output.lower()), "try by hand: ssh {host}")
        return TargetError(
            f"it cannot be reached by ssh: {what}",
            where=self._host,
            mend=mend.format(host=self._host, name=name),
        )


def bridge(ssh: Mapping[str, Any], python: str, request: Mapping[str, Any], timeout: float) -> Link:
    """Return a link to a session's daemon, which is started if ``create`` is asked.

    ``ssh`` holds the arguments of `command`. Raises `TargetError` when there is no way there, the
    board is taken, or the session is gone.
    """
    source = Path(_session_daemon.__file__).read_bytes()
    remote = [python, "-I", "-S", "-c", _BOOT, str(len(source)), json.dumps(request)]
    host = ssh["host"]
    link = Link(command(remote=remote, **ssh), host)
    try:
        link.write(source)
        link.send({"do": "hello", "heard": request["heard"]})
        answer = link.receive(timeout)
    except EndedError as error:
        failure = link.obituary()
        link.close()
        raise failure from error
    except HwbenchError:
        link.close()
        raise
    if "hello" in answer:
        link.greeting = answer
        return link
    link.close()
    raise _refusal(answer, host)


def _refusal(answer: Mapping[str, Any], host: str) -> TargetError:
    if "busy" in answer:
        holder = answer["busy"]
        who, since = holder.get("who", "somebody"), holder.get("since", "an unknown time")
        return TargetError(
            f"it is in use by {who} since {since}",
            where=host,
            expected="one client at a time: two would disturb each other's times",
            mend="wait until that session ends, then give the same command again",
        )
    if "lost" in answer:
        return TargetError(
            f"the session there is lost ({answer['lost']}): it restarted, or cleaned up after us",
            where=host,
            mend="give the same command again: it goes on with what is missing",
        )
    return TargetError(str(answer.get("error", answer)), where=host, mend="make room there")
