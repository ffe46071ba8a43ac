"""Other people's loops beside ours, on the same artifact in the same process, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hwbench import registry
from hwbench.records import (
    Candidate,
    CompressionSpec,
    ExportSpec,
    OnnxModel,
    PluginSpec,
    TargetProfile,
    TrainSpec,
    WorkloadSpec,
    file_digest,
)
from hwbench.worker import stopwatch

_SHAPE = (16, 64, 64)
_TURNS = 41
_CALLS = 10
Pairs = list[tuple[float, float]]


def loops(folder: Path) -> Iterator[tuple[str, Pairs]]:
    """Yield, for each runtime that is installed here, pairs of seconds a call: ours, theirs.

    Theirs are a plain loop around ``InferenceSession.run`` with the wall clock, and TVM's
    ``time_evaluator``.
    """
    makers: dict[str, tuple[str, Callable[[Path, Any], Callable[[], float]]]] = {
        "onnxruntime": ("a plain loop over ONNX Runtime's run()", _plain_ort),
        "tvm": ("TVM's time_evaluator", _time_evaluator),
    }
    for kind, (name, make) in makers.items():
        if registry.lacking("backends", kind):
            continue
        home = folder / f"agreement-{kind}"
        home.mkdir()
        yield name, _in_turn(kind, make, home)


def _in_turn(kind: str, make: Callable[[Path, Any], Callable[[], float]], home: Path) -> Pairs:
    import numpy as np

    model = _convolutions(home / "source.onnx")
    backend = registry.create("backends", kind, {})
    spec = PluginSpec(kind)
    target = _target(spec)
    candidate = Candidate(model.spec, spec, target.name)
    artifact = home / backend.compile(model, candidate, target, home)
    x = np.random.default_rng(0).standard_normal((1, *_SHAPE)).astype(np.float32)
    session = backend.load(artifact, 1)
    session.set_inputs([x])
    theirs = make(artifact, x)
    stopwatch.warm_up(session.invoke, 20, 2.0)
    theirs()

    def ours() -> float:
        wall, _, _ = stopwatch.time_calls(session.invoke, _CALLS)
        return statistics.median(wall) * 1e-9

    pairs = []
    for turn in range(_TURNS):
        # Whoever is second finds the caches warm: take turns at it.
        if turn % 2:
            mine = ours()
            pairs.append((mine, theirs()))
        else:
            other = theirs()
            pairs.append((ours(), other))
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


def _convolutions(path: Path) -> OnnxModel:
    """Write three convolutions of 3 x 3: a few milliseconds or less."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    channels = _SHAPE[0]
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for name in ("a", "b", "y"):
        data = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(data / 12, f"{name}.w"))
        nodes.append(
            helper.make_node("Conv", [last, f"{name}.w"], [name], kernel_shape=[3, 3], pads=[1] * 4)
        )
        last = name
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *_SHAPE]) for n in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    spec = ExportSpec(CompressionSpec(WorkloadSpec("onnx"), TrainSpec(epochs=0)))
    return OnnxModel(
        spec, path, file_digest(path), "x", _SHAPE, "float32", ("y",), (), 0, 0, 0, 0, 0.0, 20
    )


def _target(spec: PluginSpec) -> TargetProfile:
    import platform

    return TargetProfile(
        name="here", title="This machine", soc="", isa=platform.machine(), cores=1, ram_bytes=0,
        features=(), connection=None, how_to_reach="", threads=1, affinity=(), backends=(spec,),
        channel_multiple=1, power=None, meters=(), throttle_celsius=None,
    )  # fmt: skip
