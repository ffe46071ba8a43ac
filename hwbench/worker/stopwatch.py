"""The one stopwatch for all backends, and what is read off a process besides time."""

from __future__ import annotations

import ctypes
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

_STEADY = 0.02
_WINDOW = 5


def time_calls(invoke: Callable[[], None], calls: int) -> tuple[list[int], list[int], list[int]]:
    """Return wall ns, CPU ns of the process and involuntary switches, one of each a call.

    Only `invoke` is inside the wall clock; CPU time and switches are read once between calls,
    so they carry the reading's own cost of 1 to 2 µs. Switches count all threads.
    """
    clock, read, own_cpu = (
        time.perf_counter_ns,
        time.clock_gettime_ns,
        time.CLOCK_PROCESS_CPUTIME_ID,
    )
    usage, own = resource.getrusage, resource.RUSAGE_SELF
    wall, cpu, switches = [0] * calls, [0] * calls, [0] * calls
    switched = usage(own).ru_nivcsw
    used = read(own_cpu)
    for i in range(calls):
        start = clock()
        invoke()
        wall[i] = clock() - start
        now = read(own_cpu)
        cpu[i] = now - used
        used = now
        count = usage(own).ru_nivcsw
        switches[i] = count - switched
        switched = count
    return wall, cpu, switches


def warm_up(invoke: Callable[[], None], calls: int, seconds: float) -> tuple[int, float]:
    """Call until times are steady; return the number of calls and seconds per call at the end.

    Steady: the median of the last 5 is within 2 % of that of the 5 before. At least `calls`
    calls, unless they take longer than `seconds`.
    """
    times: list[int] = []
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter_ns()
        invoke()
        times.append(time.perf_counter_ns() - start)
        recent = statistics.median(times[-_WINDOW:])
        if time.perf_counter() >= end:
            break
        if len(times) >= max(calls, 2 * _WINDOW):
            before = statistics.median(times[-2 * _WINDOW : -_WINDOW])
            if abs(recent - before) <= _STEADY * before:
                break
    return len(times), recent * 1e-9


def peak_memory() -> int:
    """Return the peak of this process's resident memory (``VmHWM``) in bytes.

    Never ``ru_maxrss``: a child inherits its parent's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel does not tell VmHWM")


def reset_peak() -> bool:
    """Let the peak of resident memory begin anew; return whether the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def flush_denormals() -> bool:
    """Take numbers too small for full precision as zero, in this thread and those it starts.

    Denormals slow CPUs down by 2 to 30 times and fake pruning results. Returns whether it worked.
    """
    # Where glibc's fenv_t keeps the control register (MXCSR, FPCR), and its bits for "flush".
    layout = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}.get(platform.machine())
    if layout is not None:
        offset, bits = layout
        libm = ctypes.CDLL("libm.so.6")
        state = (ctypes.c_uint8 * 64)()
        libm.fegetenv(state)
        register = ctypes.c_uint32.from_buffer(state, offset)
        register.value |= bits
        libm.fesetenv(state)
    smallest = float.fromhex("0x1p-1050")
    return smallest * 1.5 == 0.0
