"""Writing files so that a crash, a full disk or a second run never leaves half of one behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hwbench.errors import UserError

_TICK = 1.0

_SAYINGS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a file stands where a folder should be",
}


def _read_umask() -> int:
    umask = os.umask(0o022)
    os.umask(umask)
    return umask


# Read once, at import: it can only be read by setting it, which is no good among threads.
_UMASK = _read_umask()


@contextlib.contextmanager
def said(path: Path) -> Iterator[None]:
    """Turn a full disk or a read-only folder inside the block into a `UserError`."""
    try:
        yield
    except OSError as error:
        saying = _saying(error)
        if saying is None:
            raise
        raise UserError(
            f"cannot write: {saying}",
            where=str(path),
            mend="make room or choose another folder; finished work is kept, run the same again",
        ) from error


def _saying(error: OSError) -> str | None:
    """Return what went wrong in words; shutil.copytree packs several errors into one."""
    if isinstance(error, shutil.Error):
        told = str(error)
        return next((s for c, s in _SAYINGS.items() if os.strerror(c) in told), None)
    return _SAYINGS.get(error.errno) if error.errno is not None else None


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file: to a temporary name beside it, synced, then renamed.

    Raises `UserError` when the folder is read-only or the disk full.
    """
    data = content.encode() if isinstance(content, str) else content
    with said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            # mkstemp makes files private; what we leave behind is for everybody to read.
            Path(name).chmod(0o666 & ~_UMASK)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def append(path: Path, line: str) -> None:
    """Append one line to a file and sync it. Raises `UserError` as `write` does."""
    with said(path):
        torn = path.exists() and path.stat().st_size > 0 and not _ends_clean(path)
        with path.open("ab") as stream:
            # A line torn by a crash must not swallow the one that follows it.
            stream.write((b"\n" if torn else b"") + line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


@contextlib.contextmanager
def locked(
    path: Path, *, wait: bool, busy: str = "", meanwhile: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock on a lock file; the system frees it when the process dies.

    Without `wait`, raises `UserError` saying `busy` when another process holds it; with it,
    `meanwhile` is called every second.
    """
    with said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            if wait and meanwhile is not None:
                _await(handle, meanwhile)
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = os.pread(handle, 40, 0).decode(errors="replace").strip()
            raise UserError(
                busy, where=str(path), mend=f"wait for process {holder or '?'}, or stop it"
            ) from error
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _await(handle: int, meanwhile: Callable[[], None]) -> None:
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        meanwhile()
        time.sleep(_TICK)


def _ends_clean(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
