"""Reading lines from a pipe, for every connection that has one."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

from hwbench.errors import TargetError

_LONGEST = 64 << 20


class EndedError(TargetError):
    """Nothing more will come."""


def next_line(fd: int, buffer: bytearray, timeout: float, where: str) -> str:
    """Return the next line from `fd`; `buffer` keeps what came in beyond it.

    Raises `TargetError` after `timeout` seconds or when a line never ends, `EndedError` at the end.
    """
    deadline = time.monotonic() + timeout
    while (end := buffer.find(b"\n")) < 0:
        if len(buffer) > _LONGEST:
            raise TargetError("the worker sends a line without an end", where=where)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TargetError(f"the worker has said nothing for {timeout:.0f} s", where=where)
        _fill(fd, buffer, left, where)
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line.decode(errors="replace")


def next_bytes(
    fd: int, buffer: bytearray, size: int, timeout: float, where: str
) -> Iterator[bytes]:
    """Yield the next `size` bytes as they come in; raises as `next_line` does."""
    while size:
        deadline = time.monotonic() + timeout
        while not buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TargetError(f"a file has stopped coming for {timeout:.0f} s", where=where)
            _fill(fd, buffer, left, where)
        data = bytes(buffer[:size])
        del buffer[: len(data)]
        size -= len(data)
        yield data


def _fill(fd: int, buffer: bytearray, seconds: float, where: str) -> None:
    """Take in what comes within so many seconds; raises `EndedError` at the end."""
    ready, _, _ = select.select([fd], [], [], seconds)
    if not ready:
        return
    data = os.read(fd, 1 << 18)
    if not data:
        raise EndedError("the worker has ended", where=where)
    buffer += data
