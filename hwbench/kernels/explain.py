"""Why no faster? Time, share, GFLOP/s and fraction of the machine's roof for every layer."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from hwbench.kernels.choose import clock
from hwbench.kernels.graph import Graph
from hwbench.kernels.lower import Made

RUNS = 7


@dataclass(frozen=True, slots=True)
class Row:
    """One layer: how it is computed, in how many seconds, and what share of the whole that is.

    ``walked`` is the rate of the operations really done, ``worth`` that of the dense layer they
    replace (FLOP/s); seconds and rates are None where nothing could be timed.
    """

    layer: str
    form: str
    config: str
    sparsity: float
    seconds: float | None = None
    share: float | None = None
    walked: float | None = None
    worth: float | None = None

    @property
    def sparse(self) -> bool:
        """Whether zeros are skipped."""
        return self.form == "sparse"

    @property
    def text(self) -> str:
        """The row as a sentence."""
        head = f"{self.form} kernel{f' ({self.config})' if self.config else ''}"
        head += f", {self.sparsity:.0%} zeros{_WHY.get(self.form, '')}"
        if self.seconds is None or self.walked is None or self.worth is None:
            return f"{head}; chosen by the cost model, not timed"
        return (
            f"{head}; {self.seconds * 1e6:.0f} µs, {self.share:.0%} of the network, "
            f"{self.walked / 1e9:.0f} GFLOP/s, worth {self.worth / 1e9:.0f} dense"
        )


_WHY = {
    "dense": ": too few to skip, the dense kernel was faster",
    "depthwise": ": each output reads one channel, there is nothing to skip",
}


def rows(layers: Sequence[Made], seconds: Mapping[str, float]) -> tuple[Row, ...]:
    """Return one row a layer; `seconds` are those of `times`, empty if nothing was timed."""
    total = sum(seconds.values())
    users = Counter(made.function for made in layers)
    found = []
    for made in layers:
        # Layers of one shape share a function; the mean is all that can be said of each.
        taken = seconds.get(made.function, 0.0) / users[made.function]
        row = Row(made.layer, made.form, made.config, 1 - made.density)
        if taken:
            row = Row(
                made.layer,
                made.form,
                made.config,
                1 - made.density,
                taken,
                taken / total,
                made.walked / taken,
                made.flops / taken,
            )
        found.append(row)
    return tuple(found)


def times(path: Path, graph: Graph, threads: int = 1) -> dict[str, float]:
    """Return the median seconds per inference of every function of a library, run here."""
    # A copy: a loaded library stays mapped, and whoever then wrote to its file would crash us.
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, folder)
        machine = relax.VirtualMachine(tvm.runtime.load_module(copy), tvm.cpu(0))
    rng = np.random.default_rng(0)
    inputs = [
        tvm.runtime.tensor(rng.random(graph.shapes[n]).astype(graph.dtypes[n]))
        for n in graph.inputs
    ]
    taken: dict[str, list[float]] = defaultdict(list)
    since = 0.0

    def watch(function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        nonlocal since
        if before:
            since = clock(threads)
        else:
            taken[name].append(clock(threads) - since)
        return 0

    machine["main"](*inputs)
    machine.set_instrument(watch)
    for _ in range(RUNS):
        machine["main"](*inputs)
    return {n: statistics.median(t) * len(t) / RUNS for n, t in taken.items() if "." not in n}
