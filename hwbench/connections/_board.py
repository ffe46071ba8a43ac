"""An emulated board that is switched on: its keys, its ssh configuration, its first process."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from hwbench import files
from hwbench.connections import _machine
from hwbench.errors import TargetError, UserError

_UP = 30.0
_UNSHARE = (
    "unshare", "--user", "--map-root-user", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork",
    "--kill-child=KILL",
)  # fmt: skip


class Board:
    """A board that runs as long as this object is not closed."""

    def __init__(self, folder: Path, home_size: str = "1g") -> None:
        """Switch it on; raises `TargetError` when somebody has, or this machine cannot."""
        self.folder = folder.absolute()
        self._switch = _taken(self.folder)
        try:
            self._start(home_size)
        except BaseException:
            self._switch.close()
            raise

    def _start(self, home_size: str) -> None:
        self.config = _keys(self.folder)
        command = [*_UNSHARE, sys.executable, "-I", _machine.__file__, "run", str(self.folder)]
        self._log = (self.folder / "log").open("w+b")
        self._process = subprocess.Popen(
            [*command, home_size],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _UP)
        if not ready or self._process.stdout.readline() != b"up\n":
            self.close()
            raise TargetError(
                f"the emulated board does not start: {self._said()}",
                where=str(self.folder),
                expected="unprivileged user namespaces, and binfmt_misc in them (Linux 6.7)",
                mend="measure on a real board, or emulate on a newer kernel",
            )

    @property
    def pid(self) -> int:
        """The process that everything on the board descends from."""
        return self._process.pid

    def close(self) -> None:
        """Pull the plug: everything on the board ends at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        if not self._log.closed:
            self._log.close()
        self._switch.close()

    def _said(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return (lines or ["it said nothing"])[-1][:300]


def _taken(folder: Path) -> contextlib.ExitStack:
    """Return the lock on a board's switch: two boards in one folder would share a socket."""
    held = contextlib.ExitStack()
    try:
        held.enter_context(files.locked(folder / "switch", wait=False, busy="it is switched on"))
    except UserError as error:
        raise TargetError(error.what, where=str(folder), mend=error.mend) from error
    return held


def is_built(folder: Path) -> bool:
    """Return whether there is a board in `folder`."""
    return (folder / "built").exists()


def built(folder: Path) -> None:
    """Raise `TargetError` when there is no board in `folder`."""
    if not is_built(folder):
        raise TargetError(
            "the emulated board is not built", where=str(folder), mend="make emulated-board"
        )


def answers(folder: Path) -> bool:
    """Return whether a board in `folder` is switched on, by somebody else perhaps."""
    here = os.getcwd()
    try:
        os.chdir(folder)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect("ssh")
    except OSError:
        return False
    finally:
        os.chdir(here)
    return True


def _keys(folder: Path) -> Path:
    """Make the board's key, its guest's key and the guest's configuration; return the last."""
    keys = folder / "keys"
    config = keys / "ssh_config"
    if config.exists():
        return config
    if shutil.which("ssh-keygen") is None:
        raise TargetError("there is no ssh here", mend="apt install openssh-client")
    keys.mkdir(mode=0o700, exist_ok=True)
    for name in ("hostkey", "guest"):
        (keys / name).unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(keys / name)],
            check=True,
        )
    shutil.copy(keys / "guest.pub", keys / "authorized_keys")
    (keys / "known_hosts").write_text(f"raspberrypi {(keys / 'hostkey.pub').read_text()}")
    dial = shlex.join([sys.executable, "-I", _machine.__file__, "dial", str(folder)])
    config.write_text(
        "Host raspberrypi\n  User pi\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n"
        f'  IdentityFile "{keys}/guest"\n  UserKnownHostsFile "{keys}/known_hosts"\n'
        "  GlobalKnownHostsFile none\n  ProxyUseFdpass yes\n"
        f"  ProxyCommand {dial.replace('%', '%%')}\n"
    )
    return config
