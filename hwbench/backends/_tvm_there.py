"""What a board runs to time kernels for whoever tunes them: a line of JSON in, one out.

It travels as text and runs beside TVM's runtime library, without TVM's compiler and without
hwbench. Times are taken here, next to the kernel; only figures go through the line.
"""

import ctypes
import importlib.util
import json
import os
import pathlib
import sys
import time
from typing import Any

THREADS = "TVM_NUM_THREADS"


def main(threads: str) -> None:
    """Answer jobs until they end; what does not run is said, and the next one is taken."""
    os.environ[THREADS] = threads  # read once, when the thread pool starts
    import tvm_ffi

    found = importlib.util.find_spec("tvm")
    assert found is not None
    assert found.origin is not None
    for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so"):
        library = pathlib.Path(found.origin).parent / "lib" / name
        if library.exists():
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    _say({"emulated": os.environ.get("HWBENCH_EMULATED", "")})
    for line in sys.stdin:
        try:
            _say({"rounds": _timed(tvm_ffi, json.loads(line))})
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            _say({"failure": str(error)[:300]})


def _timed(tvm_ffi: Any, job: dict[str, Any]) -> list[list[float]]:
    """Return the seconds of each library in each round, all on the same inputs, in turns.

    The first round warms up. It ends after ``rounds``, after ``seconds`` (two rounds at least),
    or when a library alone takes more than ``enough``.
    """
    # What runs in one thread is not slowed by being set aside for others' work, only delayed.
    clock = time.thread_time if os.environ[THREADS] == "1" else time.perf_counter
    calls = [tvm_ffi.load_module(path)["main"] for path in job["libraries"]]
    arrays = [_aligned(shape, dtype) for shape, dtype in job["inputs"]]
    tensors = [tvm_ffi.from_dlpack(array) for array in arrays]
    end = time.perf_counter() + job["seconds"]
    rounds: list[list[float]] = []
    while len(rounds) < job["rounds"] and (len(rounds) < 2 or time.perf_counter() < end):
        taken = []
        for call in calls:
            start = clock()
            call(*tensors)
            taken.append(clock() - start)
        rounds.append(taken)
        if job["enough"] is not None and len(rounds) > 1 and min(taken) > job["enough"]:
            break
    return rounds


def _aligned(shape: list[int], dtype: str) -> Any:
    """Return random numbers that start at a multiple of 64 bytes, as vector code expects."""
    import numpy as np

    value = np.random.default_rng(0).random(shape).astype(dtype)
    room = np.empty(value.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
