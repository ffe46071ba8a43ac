"""A plain sshd on loopback, as the user who runs the tests: a board that is always at hand."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")


class Loopback:
    """A server that can be killed and started again; its clients' configuration."""

    def __init__(self, folder: Path) -> None:
        if SSHD is None:
            pytest.skip("needs sshd (apt install openssh-server)")
        self.folder = folder
        for name in ("hostkey", "userkey", "otherkey"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
                check=True,
            )
        shutil.copy(folder / "userkey.pub", folder / "authorized_keys")
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        public = (folder / "hostkey.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/hostkey\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\n"
            "StrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        self.configure()
        self._server: subprocess.Popen[bytes] | None = None
        self.begin()

    def configure(self, key: str = "userkey", known: str = "known_hosts") -> None:
        (self.folder / "ssh_config").write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {self.folder}/{key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/{known}\n  GlobalKnownHostsFile none\n"
            "  StrictHostKeyChecking yes\n"
        )

    def options(self, **changes: Any) -> dict[str, Any]:
        import sys

        return {
            "host": "board",
            "config": str(self.folder / "ssh_config"),
            "folder": str(self.folder / "there"),
            "python": sys.executable,
            "patience": 10,
            **changes,
        }

    def begin(self) -> None:
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self._server = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stderr=subprocess.PIPE,
        )
        assert self._server.stderr is not None
        for line in self._server.stderr:
            if b"Server listening" in line:
                return
        raise AssertionError("sshd did not start")

    def cut(self) -> None:
        """Kill the processes that serve connections; the server itself goes on."""
        assert self._server is not None
        for pid in _children(self._server.pid):
            for inner in (*_children(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(inner, signal.SIGKILL)

    def end(self) -> None:
        assert self._server is not None
        self.cut()
        self._server.kill()
        self._server.communicate()


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in found.read_text().split()] if found.exists() else []


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Loopback]:
    server = Loopback(folder)
    try:
        yield server
    finally:
        server.end()
