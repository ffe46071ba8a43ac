"""What NVIDIA's management library says of a GPU, by ctypes: the worker has no other package.

Every call that fails raises `NvmlError` with the library's own words. Clocks in Hz, memory in
bytes, energy in joules, power in watts.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

LIBRARY = "libnvidia-ml.so.1"

SLOWED: Mapping[int, str] = {
    0x04: "the power cap",
    0x08: "a hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "the power brake",
}
"""Bits of NVML's clock event reasons that make a GPU slower than it was a moment ago; idling,
clocks that somebody set and display settings are none."""

_SM, _MOST_PROCESSES = 1, 64
_TOO_SMALL = 7
_UNKNOWN = (1 << 64) - 1


class NvmlError(Exception):
    """NVML refused: its words."""


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Gpu:
    """One GPU, as long as its library is open (see `opened`)."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        """Keep the handle."""
        self._library = library
        self._handle = handle

    @property
    def uuid(self) -> str:
        """The GPU's own name, the same at every boot."""
        return self._text("nvmlDeviceGetUUID")

    def identity(self) -> dict[str, Any]:
        """Return ``name``, ``uuid``, ``memory``, ``clock_limit`` and whether ``mig`` is on."""
        return {
            "name": self._text("nvmlDeviceGetName"),
            "uuid": self.uuid,
            "memory": int(self._memory().total),
            "clock_limit": self._number("nvmlDeviceGetMaxClockInfo", ctypes.c_uint, _SM) * 1e6,
            "capability": self.capability(),
            "mig": self._mig(),
        }

    def state(self) -> dict[str, Any]:
        """Return the clock, what slows it, the temperature, free memory and its processes."""
        return {
            "gpu_clock": self._number("nvmlDeviceGetClockInfo", ctypes.c_uint, _SM) * 1e6,
            "gpu_slowed": self._number(
                "nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong
            ),
            "gpu_celsius": float(self._number("nvmlDeviceGetTemperature", ctypes.c_uint, 0)),
            "gpu_free_memory": int(self._memory().free),
            "gpu_processes": len(self.processes()),
        }

    def capability(self) -> str:
        """Return the compute capability: which instructions there are."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        name = "nvmlDeviceGetCudaComputeCapability"
        self._call(name, ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def energy(self) -> float:
        """Return the joules since the driver was loaded (Volta and later)."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong) * 1e-3

    def used_memory(self) -> int:
        """Return the bytes in use by everybody."""
        return int(self._memory().used)

    def processes(self) -> dict[int, int]:
        """Return the memory of every computing process by its id, as the host counts ids."""
        count = ctypes.c_uint(_MOST_PROCESSES)
        entries = (_Process * _MOST_PROCESSES)()
        call = self._library.nvmlDeviceGetComputeRunningProcesses_v3
        status = call(self._handle, ctypes.byref(count), entries)
        if status != _TOO_SMALL:
            _check(self._library, status)
        return {int(p.pid): int(p.memory) for p in entries[: min(count.value, _MOST_PROCESSES)]}

    def _mig(self) -> bool:
        now, later = ctypes.c_uint(), ctypes.c_uint()
        try:
            self._call("nvmlDeviceGetMigMode", ctypes.byref(now), ctypes.byref(later))
        except NvmlError:
            return False  # a GPU that cannot be cut up says that it is not supported
        return bool(now.value)

    def _memory(self) -> _Memory:
        found = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", ctypes.byref(found))
        return found

    def _number(self, name: str, kind: type[Any], *arguments: int) -> int:
        found = kind()
        self._call(name, *(ctypes.c_uint(a) for a in arguments), ctypes.byref(found))
        return int(found.value)

    def _text(self, name: str) -> str:
        buffer = ctypes.create_string_buffer(96)
        self._call(name, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode(errors="replace")

    def _call(self, name: str, *arguments: Any) -> None:
        _check(self._library, getattr(self._library, name)(self._handle, *arguments))


@contextlib.contextmanager
def opened(which: str) -> Iterator[Gpu]:
    """Yield the GPU named by its UUID or number, or with ``any`` the only one.

    Raises `NvmlError` when there is no driver or no such GPU, when there are several and none is
    named, or for a MIG slice.
    """
    library = _library()
    _check(library, library.nvmlInit_v2())
    try:
        yield Gpu(library, _chosen(library, which))
    finally:
        library.nvmlShutdown()


def read(which: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return identity, software and state of a GPU, for the three rings of the conditions.

    Where it cannot be read the identity holds ``error``, the reason, and the others nothing.
    """
    try:
        with opened(which) as gpu:
            return gpu.identity(), {"nvidia_driver": driver(), "cuda_driver": cuda()}, gpu.state()
    except NvmlError as error:
        return {"error": str(error)}, {}, {}


def state(which: str) -> dict[str, Any]:
    """Return the state of a GPU; empty where it cannot be read."""
    if not which:
        return {}
    try:
        with opened(which) as gpu:
            return gpu.state()
    except NvmlError:
        return {}


def process_memory(process: int, which: str) -> int | None:
    """Return the bytes of GPU memory that a process holds, its context included.

    None where NVML cannot tell: no driver, a card that keeps no such books, or a container in
    which the driver knows the process by another number.
    """
    try:
        with opened(which) as gpu:
            held = gpu.processes().get(process)
    except NvmlError:
        return None
    return held if held is not None and held < _UNKNOWN else None


def driver() -> str:
    """Return the version of the driver; between `opened` and its end."""
    library = _library()
    buffer = ctypes.create_string_buffer(96)
    _check(library, library.nvmlSystemGetDriverVersion(buffer, ctypes.c_uint(len(buffer))))
    return buffer.value.decode(errors="replace")


def cuda() -> str:
    """Return the newest CUDA that the driver runs, as in 13.0; between `opened` and its end."""
    library, found = _library(), ctypes.c_int()
    _check(library, library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(found)))
    return f"{found.value // 1000}.{found.value % 1000 // 10}"


def capability(which: str) -> str:
    """Return the compute capability of a GPU of this machine, as in 9.0; empty: there is none."""
    try:
        with opened(which) as gpu:
            return gpu.capability()
    except NvmlError:
        return ""


def slowed_by(bits: int) -> tuple[str, ...]:
    """Return in words what slows a GPU down."""
    return tuple(words for bit, words in SLOWED.items() if bits & bit)


def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NvmlError(f"there is no NVIDIA driver here ({LIBRARY} cannot be loaded)") from error


def _chosen(library: ctypes.CDLL, which: str) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    if which.startswith("MIG-"):
        raise NvmlError(f"{which} is a slice of a GPU: its clock and energy are not its own")
    if which.startswith("GPU-"):
        status = library.nvmlDeviceGetHandleByUUID(which.encode(), ctypes.byref(handle))
        _check(library, status, f"no GPU {which}: ")
        return handle
    count = ctypes.c_uint()
    _check(library, library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
    if which != "any" and not which.isdigit():
        raise NvmlError(f"no GPU {which!r}: expected any, a number, or GPU- and its uuid")
    if which == "any" and count.value > 1:
        names = ", ".join(_named(library, i) for i in range(count.value))
        raise NvmlError(f"there are {count.value} GPUs and the target names none: {names}")
    number = 0 if which == "any" else int(which)
    status = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle))
    _check(library, status, f"no GPU {number}: ")
    return handle


def _named(library: ctypes.CDLL, index: int) -> str:
    handle = ctypes.c_void_p()
    _check(library, library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)))
    return Gpu(library, handle).uuid


def _check(library: ctypes.CDLL, status: int, before: str = "") -> None:
    if status:
        library.nvmlErrorString.restype = ctypes.c_char_p
        words = library.nvmlErrorString(status) or b"error"
        raise NvmlError(f"{before}NVML says: {words.decode(errors='replace')}")
