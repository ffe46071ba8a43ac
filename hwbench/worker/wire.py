"""Lines over a file descriptor, with a timeout, while listening for the end of another."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

_BLINK = 1.0


class HostGoneError(Exception):
    """Whoever gave the commands has gone: everything ends."""


class Wire:
    """The lines that come in over a file descriptor."""

    def __init__(self, fd: int) -> None:
        """Read from `fd`, which stays the caller's to close."""
        self.fd = fd
        self._buffer = bytearray()

    def line(self) -> bytes | None:
        """Return the next whole line that has come in, without its newline, or None."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        found = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return found

    def fill(self) -> bool:
        """Take in what is there, waiting for some; return False at the end."""
        data = os.read(self.fd, 1 << 16)
        self._buffer += data
        return bool(data)


def wait(
    wire: Wire, timeout: float, host: Wire | None = None, blink: Callable[[], None] | None = None
) -> bytes:
    """Return the next line of `wire`, calling `blink` about once a second until it comes.

    Raises `TimeoutError`, `EOFError` when the wire has ended, or `HostGoneError` when the host's
    has. Sleeps in the kernel meanwhile: nothing may be busy beside a timed child.
    """
    deadline = time.monotonic() + timeout
    while (found := wire.line()) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        watched = [w for w in (wire, host) if w is not None]
        ready, _, _ = select.select([w.fd for w in watched], [], [], min(left, _BLINK))
        if host is not None and host.fd in ready and not host.fill():
            raise HostGoneError
        if wire.fd in ready and not wire.fill():
            raise EOFError
        if blink is not None:
            blink()
    return found
