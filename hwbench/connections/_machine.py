"""The power switch of an emulated board, in namespaces of its own, without being root.

``_machine.py run FOLDER HOME_SIZE`` (under ``unshare``) is the first process of the board: it
mounts what the board sees, registers qemu for it alone, listens on the unix socket
``FOLDER/ssh`` and starts a genuine aarch64 sshd for whoever calls. The board has no network at
all. ``_machine.py dial FOLDER`` is what ssh calls as its proxy.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

_MAGIC = (
    rb"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
    rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
)
_BINFMT = "/proc/sys/fs/binfmt_misc"
_DEVICES = ("null", "zero", "random", "urandom", "full", "tty")


def run(folder: Path, home_size: str) -> None:
    """Be the board, until killed."""
    root = folder / "root"
    subprocess.run(["hostname", "raspberrypi"], check=False)
    _mount(root, folder, home_size)
    _register(folder / "qemu-aarch64")
    os.chdir(folder)
    listening = socket.socket(socket.AF_UNIX)
    Path("ssh").unlink(missing_ok=True)
    listening.bind("ssh")
    listening.listen(16)
    os.write(1, b"up\n")
    inside = [
        "unshare", "--user", "--map-user=1000", "--map-group=1000", f"--root={root}",
        "--wd=/home/pi", "/usr/sbin/sshd", "-i", "-e", "-f", "/etc/ssh/sshd_config",
    ]  # fmt: skip
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/home/pi",
        "QEMU_CPU": "cortex-a72",
        "HWBENCH_EMULATED": "qemu-aarch64",
    }
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        ready, _, _ = select.select([listening], [], [], 0.5)
        if ready:
            caller, _ = listening.accept()
            with caller:
                subprocess.Popen(
                    inside, stdin=caller.fileno(), stdout=caller.fileno(), env=environment
                )


def _mount(root: Path, folder: Path, home_size: str) -> None:
    """Show the board its file system, read-only, with a home of so many bytes of its own."""
    facade = root / "facade"

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words], check=True)

    mount("--bind", str(root), str(root))
    # Its own keys are the only thing of ours that it may see.
    mount("-t", "tmpfs", "-o", "size=16m", "run", f"{root}/run")
    for name in ("sshd", "keys"):
        (root / "run" / name).mkdir()
    for name in ("hostkey", "authorized_keys"):
        place = root / "run/keys" / name
        place.write_bytes((folder / "keys" / name).read_bytes())
        place.chmod(0o600)
    mount("-t", "tmpfs", "-o", f"size={home_size},mode=0755", "home", f"{root}/home/pi")
    mount("-t", "tmpfs", "-o", "size=256m,mode=1777", "tmp", str(root / "tmp"))
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("--bind", f"{facade}/cpuinfo", f"{root}/proc/cpuinfo")
    mount("-t", "tmpfs", "-o", "size=1m", "sys", f"{root}/sys")
    cpus = root / "sys/devices/system/cpu"
    cpus.mkdir(parents=True)
    mount("--bind", f"{facade}/cpu", str(cpus))
    mount("-t", "tmpfs", "-o", "size=256m", "dev", f"{root}/dev")
    for name in _DEVICES:
        (root / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", f"{root}/dev/{name}")
    for name in ("pts", "shm"):
        (root / "dev" / name).mkdir(mode=0o1777)
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", f"{root}/dev/pts")
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    mount("-o", "remount,bind,ro", str(root))


def _register(qemu: Path) -> None:
    """Register qemu for aarch64 programs, for the board's own namespace alone (Linux >= 6.7)."""
    subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT], check=True)
    magic, mask = _MAGIC
    line = b":hwbench-aarch64:M::" + magic + b":" + mask + b":" + bytes(qemu) + b":FPC"
    with Path(_BINFMT, "register").open("wb", buffering=0) as stream:
        stream.write(line)


def dial(folder: Path) -> None:
    """Connect to the board and hand the connection to ssh (its ``ProxyUseFdpass``)."""
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as board, socket.socket(fileno=os.dup(1)) as ssh:
        board.connect("ssh")
        socket.send_fds(ssh, [b"\0"], [board.fileno()])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", where, size]:
            run(Path(where), size)
        case ["dial", where]:
            dial(Path(where))
