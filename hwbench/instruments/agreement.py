"""Other people's loops beside ours, on the same artifact in the same process, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hwbench.backends import DENSE, REFERENCE
from hwbench.instruments import networks
from hwbench.pipeline import session
from hwbench.records import Candidate, CompiledModel, PluginSpec, TargetProfile
from hwbench.registry import BACKENDS
from hwbench.worker import stopwatch

_SIDE = 64
_TURNS = 41
_CALLS = 10
Pairs = list[tuple[float, float]]


def loops(folder: Path) -> Iterator[tuple[str, Pairs]]:
    """Yield, for each runtime that is installed here, pairs of seconds a call: ours, theirs.

    Theirs are a plain loop around ``InferenceSession.run`` with the wall clock, and TVM's
    ``time_evaluator``.
    """
    makers: dict[str, tuple[str, Callable[[Path, Any], Callable[[], float]]]] = {
        REFERENCE.kind: ("a plain loop over ONNX Runtime's run()", _plain_ort),
        DENSE.kind: ("TVM's time_evaluator", _time_evaluator),
    }
    for kind, (name, make) in makers.items():
        if BACKENDS.lacking(kind):
            continue
        home = folder / f"agreement-{kind}"
        home.mkdir()
        yield name, _in_turn(kind, make, home)


def _in_turn(kind: str, make: Callable[[Path, Any], Callable[[], float]], home: Path) -> Pairs:
    model = networks.convolutions(home / "source.onnx", _SIDE)
    spec = PluginSpec(kind)
    target = _target(spec)
    with session.scratch(target) as line:
        compiled = line.compiled(Candidate(model.spec, spec, target.name), model).result()
        return _beside(kind, make, compiled)


def _beside(
    kind: str, make: Callable[[Path, Any], Callable[[], float]], compiled: CompiledModel
) -> Pairs:
    """Return the pairs of an artifact, loaded and timed in this very process."""
    import numpy as np

    backend = BACKENDS.create(kind, {})
    artifact = compiled.folder / compiled.entry
    x = np.random.default_rng(0).standard_normal((1, *compiled.input_shape)).astype(np.float32)
    loaded = backend.load(artifact, 1)
    loaded.set_inputs([x])
    time_peer = make(artifact, x)
    stopwatch.warm_up(loaded.invoke, 20, 2.0)
    time_peer()

    def time_hwbench() -> float:
        wall, _, _ = stopwatch.time_calls(loaded.invoke, _CALLS)
        return statistics.median(wall) * 1e-9

    pairs = []
    for turn in range(_TURNS):
        # Whoever is second finds the caches warm: take turns at it.
        if turn % 2:
            seconds = time_hwbench()
            pairs.append((seconds, time_peer()))
        else:
            peer_seconds = time_peer()
            pairs.append((time_hwbench(), peer_seconds))
    return pairs


def _plain_ort(artifact: Path, x: Any) -> Callable[[], float]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])

    def loop() -> float:
        times = []
        for _ in range(_CALLS):
            start = time.perf_counter()
            session.run(None, {"x": x})
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return loop


def _time_evaluator(artifact: Path, x: Any) -> Callable[[], float]:
    import tvm
    from tvm import relax

    device = tvm.cpu()
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(artifact)), device)
    evaluate = machine.time_evaluator("main", device, number=1, repeat=_CALLS)
    tensor = tvm.runtime.tensor(x, device)
    return lambda: float(statistics.median(evaluate(tensor).results))


def _target(spec: PluginSpec) -> TargetProfile:
    import platform

    return TargetProfile(
        name="here", title="This machine", soc="", isa=platform.machine(), cores=1, ram_bytes=0,
        features=(), connection=None, how_to_reach="", threads=1, affinity=(), backends=(spec,),
        channel_multiple=1, power=None, meters=(), throttle_celsius=None,
    )  # fmt: skip
