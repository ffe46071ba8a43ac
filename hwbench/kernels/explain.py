"""Why no faster? Time, share, GFLOP/s and fraction of the machine's roof for every layer."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from hwbench.kernels import TRY_FROM
from hwbench.kernels.choose import clock
from hwbench.kernels.graph import Graph
from hwbench.kernels.lower import SELL_BELOW
from hwbench.kernels.problem import Config
from hwbench.kernels.values import LoweredLayer

RUNS = 7


@dataclass(frozen=True, slots=True)
class Row:
    """One layer: how it is computed, in how many seconds, and what share of the whole that is.

    ``walked`` is the rate of the operations really done, ``worth`` that of the dense layer they
    replace (FLOP/s), ``roof`` the rate this machine reaches at best when every multiply-add
    brings its factor from where this kernel's come from. What was not timed is None.
    """

    layer: str
    form: str
    config: str
    sparsity: float
    why: str
    seconds: float | None = None
    share: float | None = None
    walked: float | None = None
    worth: float | None = None
    roof: float | None = None
    bound: str = ""
    within: str = ""

    @property
    def sparse(self) -> bool:
        """Whether zeros are skipped."""
        return self.form == "sparse"

    @property
    def text(self) -> str:
        """The row as a sentence."""
        head = f"{self.form} kernel{f' ({self.config})' if self.config else ''}"
        head += f", {self.sparsity:.0%} zeros{self.why and f': {self.why}'}"
        if self.within:
            return f"{head}; computed inside the kernel of {self.within}"
        if self.seconds is None or self.walked is None or self.worth is None:
            return f"{head}; not timed: the code is for another machine"
        roof = f" ({self.walked / self.roof:.0%} of the {self.bound} roof)" if self.roof else ""
        return (
            f"{head}; {self.seconds * 1e6:.0f} µs, {self.share:.0%} of the network, "
            f"{self.walked / 1e9:.0f} GFLOP/s{roof}, worth {self.worth / 1e9:.0f} dense"
        )


def rows(
    layers: Sequence[LoweredLayer],
    seconds: Mapping[str, Sequence[float]],
    roofs: Mapping[str, float] | None = None,
    contests: Mapping[str, Mapping[Config, float]] | None = None,
) -> tuple[Row, ...]:
    """Return one row a layer.

    `seconds` are those of `times`, `roofs` those of `roofs.measure` and `contests` those of
    `Chooser.times`; each is empty if nothing was timed.
    """
    total = sum(sum(calls) for calls in seconds.values())
    # Layers of one shape share a function: its calls come in the order of the layers.
    left = {name: list(calls) for name, calls in seconds.items()}
    table = []
    for note in layers:
        taken = left[note.function].pop(0) if left.get(note.function) else 0.0
        why = _why(note, (contests or {}).get(note.signature, {}))
        row = Row(note.layer, note.form, note.config, 1 - note.density, why, within=note.within)
        if taken:
            bound = "register" if note.reuse > 1 else "L1"
            best = (roofs or {}).get("registers" if note.reuse > 1 else "L1")
            row = dataclasses.replace(
                row,
                seconds=taken,
                share=taken / total,
                walked=note.walked / taken,
                worth=note.flops / taken,
                roof=best * note.per_load if best else None,
                bound=bound,
            )
        table.append(row)
    return tuple(table)


def _why(note: LoweredLayer, contest: Mapping[Config, float]) -> str:
    """Return why a layer is computed as it is: the rule that decided, or the times that did."""
    if note.form == "depthwise":
        return "each output reads one channel, there is nothing to skip"
    if note.config == "rows":
        return f"lists for one row of input are not tried below {1 - SELL_BELOW:.0%}"
    if note.form == "dense" and 1 - note.density < TRY_FROM:
        return f"sparse kernels are not tried below {TRY_FROM:.0%}"
    best: dict[str, float] = {}
    for config, seconds in contest.items():
        best[config.lists] = min(best.get(config.lists, seconds), seconds)
    if len(best) > 1:
        timings = (f"{seconds * 1e6:.0f} µs {lists}" for lists, seconds in best.items())
        return f"alone it took {', '.join(timings)}"
    return "the cost model expects no gain from skipping them" if note.form == "dense" else ""


def times(path: Path, graph: Graph, threads: int = 1) -> dict[str, list[float]]:
    """Return the median seconds of every call of every function in an inference, run here."""
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
    return {
        name: np.median(np.reshape(calls, (RUNS, -1)), axis=0).tolist()
        for name, calls in taken.items()
        if "." not in name and len(calls) % RUNS == 0
    }
