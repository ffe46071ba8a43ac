"""Reading a process's GPU memory, from a recorded answer of NVML."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hwbench.worker import gpu


class NvmlError(Exception):
    """As pynvml raises."""


class Library:
    """Answers as pynvml did on a machine with two GPUs, where 4711 held memory on both."""

    NVMLError = NvmlError
    open = 0

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def nvmlInit(self) -> None:
        if self.fails == "init":
            raise NvmlError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        if self.fails == "list":
            raise NvmlError("Not Supported")
        mine = SimpleNamespace(pid=4711, usedGpuMemory=(538_968_064, 1_048_576)[handle])
        silent = SimpleNamespace(pid=9, usedGpuMemory=None)
        return [SimpleNamespace(pid=1, usedGpuMemory=7), mine, silent]


def test_it_is_summed_over_the_gpus() -> None:
    library = Library()
    assert gpu.process_memory(4711, library) == 538_968_064 + 1_048_576
    assert library.open == 0


@pytest.mark.parametrize(("process", "fails"), [(5, ""), (9, ""), (4711, "init"), (4711, "list")])
def test_what_nvml_cannot_tell_is_nothing_not_zero(process: int, fails: str) -> None:
    library = Library(fails)
    assert gpu.process_memory(process, library) is None
    assert library.open == 0
