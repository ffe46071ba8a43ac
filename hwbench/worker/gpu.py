"""What the driver says a process holds of a GPU's memory, through NVML."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


def process_memory(process: int, library: Any = None) -> int | None:
    """Return the bytes of GPU memory that a process holds, its context included, on all GPUs.

    None where NVML cannot tell: no library, no driver, a card that keeps no such books, or a
    container in which the driver knows the process by another number. `library` stands in for
    the module pynvml.
    """
    if library is None:
        if importlib.util.find_spec("pynvml") is None:
            return None
        library = importlib.import_module("pynvml")
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    try:
        held = [
            found.usedGpuMemory
            for index in range(library.nvmlDeviceGetCount())
            for found in library.nvmlDeviceGetComputeRunningProcesses(
                library.nvmlDeviceGetHandleByIndex(index)
            )
            if found.pid == process
        ]
    except library.NVMLError:
        return None
    finally:
        library.nvmlShutdown()
    known = [int(size) for size in held if size is not None]
    return sum(known) if known else None
