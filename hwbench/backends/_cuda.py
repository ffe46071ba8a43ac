"""NVIDIA's libraries on the device: found, streams and events of the CUDA runtime. Not a plug-in.

Through ctypes, so that backends without a binding of their own can be timed by the GPU's clock.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import struct
from pathlib import Path

from hwbench.errors import StageError

_PACKAGES = ("nvidia", "tensorrt_libs")
"""Where pip puts NVIDIA's libraries: out of the loader's sight."""
_NON_BLOCKING = 1
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB = 1, 5


def library(name: str) -> ctypes.CDLL:
    """Return a library, from the system or from pip's packages; raises `OSError`."""
    try:
        return ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
    except OSError:
        found = (importlib.util.find_spec(package) for package in _PACKAGES)
        homes = [Path(p) for spec in found if spec for p in spec.submodule_search_locations or ()]
        for path in (p for home in homes for p in sorted(home.rglob(name))):
            return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        raise


def lacking(path: Path) -> list[str]:
    """Return what a library needs and cannot be loaded here, in the loader's words.

    The library itself is not loaded; what it needs is, from pip's packages too.
    """
    said = []
    for name in needed(path):
        try:
            library(name)
        except OSError as error:
            said.append(str(error))
    return said


def needed(path: Path) -> list[str]:
    """Return the libraries that a 64-bit ELF file names as needed, in its own order."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (table,) = struct.unpack_from("<Q", data, 0x20)
        size, count = struct.unpack_from("<HH", data, 0x36)
        # Each: type, flags, place in the file, address, physical address, size in the file, ...
        parts = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
        _, _, start, _, _, length = next(p for p in parts if p[0] == _PT_DYNAMIC)
        entries = list(struct.iter_unpack("<qQ", data[start : start + length]))
        address = next(value for tag, value in entries if tag == _DT_STRTAB)
        words = next(
            place + address - begin
            for kind, _, place, begin, _, held in parts
            if kind == _PT_LOAD and begin <= address < begin + held
        )
        at = [words + value for tag, value in entries if tag == _DT_NEEDED]
        return [data[a : data.find(b"\0", a)].decode() for a in at]


class Events:
    """Two events in a stream: the GPU's own clock, for work that was put into that stream."""

    def __init__(self, cuda: ctypes.CDLL, stream: ctypes.c_void_p | None = None) -> None:
        """Make the events; without a stream they are in the default one."""
        self._cuda = cuda
        self._stream = stream
        self._events = (ctypes.c_void_p(), ctypes.c_void_p())
        for event in self._events:
            check(cuda, cuda.cudaEventCreate(ctypes.byref(event)))

    def begin(self) -> None:
        """Start the clock."""
        check(self._cuda, self._cuda.cudaEventRecord(self._events[0], self._stream))

    def end(self) -> int:
        """Return the nanoseconds since `begin` that the GPU counted, when it is done."""
        start, stop = self._events
        check(self._cuda, self._cuda.cudaEventRecord(stop, self._stream))
        check(self._cuda, self._cuda.cudaEventSynchronize(stop))
        found = ctypes.c_float()
        check(self._cuda, self._cuda.cudaEventElapsedTime(ctypes.byref(found), start, stop))
        return round(found.value * 1e6)


class Stream:
    """A stream of ours that another runtime puts its work into, and its clock."""

    def __init__(self, cuda: ctypes.CDLL) -> None:
        """Make a stream that waits for no other: only such a one can be captured."""
        self._cuda = cuda
        self._stream = ctypes.c_void_p()
        made = cuda.cudaStreamCreateWithFlags(ctypes.byref(self._stream), _NON_BLOCKING)
        check(cuda, made)
        self.events = Events(cuda, self._stream)

    @property
    def address(self) -> int:
        """Where it is, as other runtimes want to be told."""
        return self._stream.value or 0

    def wait(self) -> None:
        """Return when everything in it is done."""
        check(self._cuda, self._cuda.cudaStreamSynchronize(self._stream))


def check(cuda: ctypes.CDLL, status: int) -> None:
    """Raise `StageError` in CUDA's words unless the status is 0."""
    if status:
        cuda.cudaGetErrorString.restype = ctypes.c_char_p
        words = cuda.cudaGetErrorString(status) or b"unknown error"
        raise StageError("measure", f"CUDA: {words.decode(errors='replace')}")
