"""What this core can do at best: multiply-adds from registers, from L1, from L2, from memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm.script.ir_builder import tirx as T

from hwbench.kernels.build import Machine
from hwbench.kernels.choose import clock
from hwbench.kernels.memory import Memory
from hwbench.kernels.template import argument, finish

ACCUMULATORS = 12
SIZES = {"L1": 16 << 10, "L2": 384 << 10, "memory": 256 << 20}
"""Bytes that are read over and over; the last is beyond every cache."""
NAME = "roofs"


def measure(machine: Machine) -> dict[str, float]:
    """Return FLOP/s by where one factor comes from: ``registers``, ``L1``, ``L2``, ``memory``.

    Each multiply-add from a cache reads one vector, which is what an unstructured layer does.
    """
    rates = {"registers": _fastest(machine, 4096, 2000, reading=False)}
    for name, size in SIZES.items():
        count = size // 4
        rates[name] = _fastest(machine, count, max((64 << 20) // size, 1), reading=True)
    return rates


def known(machine: Machine, memory: Memory) -> dict[str, float]:
    """Return this machine's roofs, measured once and then remembered."""
    rates = memory.recall().get(NAME)
    if rates is None:
        rates = measure(machine)
        memory.keep({NAME: rates})
    # Threads have a core each: only memory is shared, and what that costs is not known.
    return {name: rate * machine.threads for name, rate in rates.items()}


def _fastest(machine: Machine, count: int, repeats: int, *, reading: bool) -> float:
    lanes = machine.lanes
    steps = count // (ACCUMULATORS * lanes)

    def body() -> None:
        x, y = argument("x", count), argument("y", ACCUMULATORS * lanes)
        sums = T.alloc_buffer((ACCUMULATORS * lanes,), "float32", scope="local")
        for a in range(ACCUMULATORS):
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(sums, x[lane], [a * lanes + lane])
        with T.serial(0, repeats), T.serial(0, steps) as step:
            for a in range(ACCUMULATORS):
                with T.vectorized(0, lanes) as lane:
                    at = a * lanes + lane
                    half = T.float32(0.5)
                    if reading:
                        value = sums[at] + x[step * (ACCUMULATORS * lanes) + at] * half
                    else:
                        value = sums[at] * half + half
                    T.buffer_store(sums, value, [at])
        for a in range(ACCUMULATORS):
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(y, sums[a * lanes + lane], [a * lanes + lane])

    module = tvm.IRModule({"roof": finish(body, "roof")})
    call: Any = tvm.compile(module, target=machine.target)["roof"]
    x = tvm.runtime.tensor(np.ones(count, np.float32))
    y = tvm.runtime.tensor(np.zeros(ACCUMULATORS * lanes, np.float32))
    best = float("inf")
    for _ in range(5):
        start = clock(1)
        call(x, y)
        best = min(best, clock(1) - start)
    return 2.0 * repeats * steps * ACCUMULATORS * lanes / best
