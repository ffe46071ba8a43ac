"""Reading lines from a worker's standard output, for every connection that has one."""

from __future__ import annotations

import os
import select
import time

from hwbench.errors import TargetError

_LONGEST = 64 << 20


def next_line(fd: int, buffer: bytearray, timeout: float, where: str) -> str:
    """Return the next line from `fd`; `buffer` keeps what came in beyond it.

    Raises `TargetError` after `timeout` seconds, at the end, or when a line never ends.
    """
    deadline = time.monotonic() + timeout
    while (end := buffer.find(b"\n")) < 0:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TargetError(f"the worker has said nothing for {timeout:.0f} s", where=where)
        if len(buffer) > _LONGEST:
            raise TargetError("the worker sends a line without an end", where=where)
        ready, _, _ = select.select([fd], [], [], left)
        if not ready:
            continue
        data = os.read(fd, 1 << 18)
        if not data:
            raise TargetError("the worker has ended", where=where)
        buffer += data
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line.decode(errors="replace")
