"""The sparse backend on a whole network: right here, right on an emulated Cortex-A72, and fast."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from hwbench.errors import StageError
from hwbench.instruments import kernel_bench
from hwbench.kernels import build, choose, graph, layouts, lower
from hwbench.kernels.problem import Config, OutputLanes, Problem, Reading
from hwbench.pareto import decide
from hwbench.records import LayerNote, PluginSpec, Source, Value
from hwbench.registry import BACKENDS
from tests import synthetic
from tests.unit.test_kernels import block, document, pruned


def test_resnet8_as_the_house_exports_it(tmp_path: Path) -> None:
    import torch

    from hwbench.workloads._resnet8 import ResNet8

    torch.manual_seed(0)
    model = ResNet8(3, 10, (16, 32, 64), 1).eval()
    document = kernel_bench.prune(kernel_bench.traced(model, (3, 32, 32)), 0.9)
    onnx.save(document, str(tmp_path / "m.onnx"))
    x = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    session, notes = kernel_bench.compiled(tmp_path / "m.onnx", x, 1)
    session.set_inputs([x])
    session.invoke()
    expected = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(session.outputs()[0], expected, rtol=1e-4, atol=1e-5)
    assert len(notes) == 10
    assert sum(note.eligible for note in notes) >= 8
    assert [note.why for note in notes if "µs" not in note.why] == []


def test_a_peer_is_timed_in_turns_and_one_that_is_absent_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openvino")
    model, x = block(np.random.default_rng(0), 16, 5)
    # "deepsparse" is not in this environment; OpenVINO is, and its Python is ours.
    peers = [f"{name}={sys.executable}" for name in ("deepsparse", "openvino")]
    line = kernel_bench.compare("block", "50", model, x, 1, 5, int8=False, why=False, peers=peers)
    absent, ratio = line.peers
    assert absent is None
    assert ratio is not None
    assert ratio > 0
    assert "No module named 'deepsparse'" in capsys.readouterr().out
    assert f" {ratio:.2f} |" in kernel_bench._line(line)


def test_an_artifact_for_a_cortex_a72_links(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("needs gcc-aarch64-linux-gnu")
    model, _ = block(np.random.default_rng(0), 16, 5)
    onnx.save(model, str(tmp_path / "m.onnx"))
    made = build.machine("cortex-a72", "aarch64-linux-gnu")
    assert made.lanes == 4
    assert not made.native
    lowered = lower.lower(graph.read(tmp_path / "m.onnx", 2), made, choose.Chooser(made))
    build.library(build.prepare(lowered.module, None, made), made, tmp_path / "model.so")
    head = (tmp_path / "model.so").read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[18:20], "little") == 183  # EM_AARCH64


def test_no_linker_is_said(tmp_path: Path) -> None:
    backend = BACKENDS.create("tvm_sparse", {"cc": "no-such-gcc"})
    model, x = block(np.random.default_rng(0), 16, 5)
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(StageError, match="no-such-gcc"):
        kernel_bench.compiled(tmp_path / "m.onnx", x, 1, backend)


def test_where_sparse_does_not_pay_the_decision_says_ship_it_on_ort(tmp_path: Path) -> None:
    """Few zeros, and code for a core of 2008 (4 lanes, no fused multiply-add): slower than ORT."""
    from torch import nn

    layers = [part for _ in range(3) for part in (nn.Linear(384, 384), nn.ReLU())]
    dense = kernel_bench.traced(nn.Sequential(*layers).eval(), (64, 384))
    x = np.random.default_rng(0).standard_normal((1, 64, 384)).astype(np.float32)
    sparse = PluginSpec("tvm_sparse", {"mcpu": "nehalem"})
    calls: list[Callable[[], Any]] = []
    notes: tuple[LayerNote, ...] = ()
    for number, model in enumerate((dense, dense, kernel_bench.prune(dense, 0.3))):
        path = tmp_path / f"{number}" / "m.onnx"
        path.parent.mkdir()
        onnx.save(model, str(path))
        if number:
            backend = BACKENDS.create("tvm_sparse", sparse.options)
            session, notes = kernel_bench.compiled(path, x, 1, backend)
            calls.append(session.invoke)
        else:
            theirs = kernel_bench.session(str(path), 1)
            calls.append(functools.partial(theirs.run, None, {"x": x}))
    taken = kernel_bench.race(calls, 15, 1)
    who = (
        synthetic.candidate(),
        synthetic.candidate(backend=sparse),
        synthetic.candidate("unstructured", 0.3, backend=sparse),
    )
    rows = []
    for candidate, seconds in zip(who, taken.T, strict=True):
        low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
        latency = Value("latency_p50", middle, Source.MEASURED, low, high)
        rows.append(synthetic.result(candidate, {"latency_p50": latency, "top1": 0.9}))
    recipe = synthetic.recipe(objectives=("top1", "latency_p50"))
    decision = decide(rows, recipe, synthetic.target())
    assert (decision.verdict, decision.chosen) == ("dense", who[0].key)
    said = "No pruned model pays: ship the dense model on onnxruntime"
    assert decision.reason.startswith(said)
    assert "slower" in decision.reason
    assert "unstructured 30 %" in decision.reason
    assert len(notes) == 3
    assert all("zeros" in note.why for note in notes)


MAIN = Path(__file__).parent / "kernel_main.c"


def separable(rng: np.random.Generator) -> tuple[onnx.ModelProto, np.ndarray]:
    """Two pairs of a depthwise and a 1x1 layer, as MobileNets have them, one with a stride."""
    weights, nodes, at = {}, [], "x"
    for number, (inputs, outputs, stride) in enumerate(((12, 20, 1), (20, 24, 2))):
        weights[f"d{number}"] = rng.standard_normal((inputs, 1, 3, 3)).astype(np.float32)
        weights[f"p{number}"] = pruned(rng, (outputs, inputs, 1, 1), "half")
        given: dict[str, Any] = {"group": inputs, "strides": [stride] * 2, "pads": [1] * 4}
        nodes += [
            helper.make_node("Conv", [at, f"d{number}"], [f"a{number}"], **given),
            helper.make_node("Relu", [f"a{number}"], [f"b{number}"]),
            helper.make_node("Conv", [f"b{number}", f"p{number}"], [f"c{number}"]),
            helper.make_node("Relu", [f"c{number}"], [f"d{number}.r"]),
        ]
        at = f"d{number}.r"
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["y"]))
    x = rng.standard_normal((2, 12, 16, 16)).astype(np.float32)
    return document(nodes, weights, x.shape[1:]), x


@pytest.mark.parametrize(
    ("cpu", "network", "calls"),
    [("cortex-a72", lambda rng: block(rng, 18, 5), 9), ("cortex-a76", separable, 3)],
    ids=["cortex-a72", "cortex-a76"],
)
def test_a_network_is_right_on_an_emulated_core(
    cpu: str, network: Callable[[Any], Any], calls: int, tmp_path: Path
) -> None:
    """Every function of a network runs as NEON code under qemu, in the network's order."""
    gcc, qemu = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if gcc is None or qemu is None:
        pytest.skip("needs gcc-aarch64-linux-gnu and qemu-user")
    import tvm
    import tvm_ffi
    from tvm import relax

    model, x = network(np.random.default_rng(0))
    onnx.save(model, str(tmp_path / "m.onnx"))
    made = build.machine(cpu, "aarch64-linux-gnu")
    graphed = graph.read(tmp_path / "m.onnx", len(x))
    chooser = choose.Chooser(made)

    def chosen(problem: Problem) -> Config:
        fused = [c for c in choose.candidates(problem, made) if c.reading is Reading.FUSED]
        small = isinstance(problem.target, layouts.Planar) and problem.rows >= 2 * made.lanes
        if small and problem.epilogue.residual:
            wide = layouts.cover(problem.target.width, 6)[1]
            return OutputLanes(wide, 2)
        return fused[0] if fused else chooser(problem)

    lowered = lower.lower(graphed, made, chosen)
    across = [layer for layer in lowered.layers if layer.config.startswith("across")]
    assert bool(across) == (network is not separable)
    assert "sparse" in {layer.form for layer in lowered.layers}
    assert any(layer.within for layer in lowered.layers) == (network is separable)
    module = build.prepare(lowered.module, None, made)
    # What TVM fused is private to the module until it has a symbol of its own.
    kernels = {
        v: f.with_attr("global_symbol", str(v.name_hint))
        for v, f in module.functions.items()
        if isinstance(f, tvm.tirx.PrimFunc)
    }
    with made.target:
        library = tvm.compile(tvm.IRModule(kernels), target=made.target)
    library.export_library(str(tmp_path / "layer.so"), cc=gcc)
    include = Path(tvm_ffi.__file__).parent / "include"
    subprocess.run(
        [gcc, "-O1", f"-I{include}", "-rdynamic", str(MAIN), "-ldl", "-o", str(tmp_path / "main")],
        check=True,
    )
    emulated = [qemu, "-cpu", cpu if cpu == "cortex-a72" else "max", "-L", "/usr/aarch64-linux-gnu"]

    def run(variable: Any, inputs: list[np.ndarray]) -> np.ndarray:
        """Return what one function answers on the emulated core."""
        result = module[variable].params[-1]
        empty = np.zeros([int(n) for n in result.shape], str(result.dtype))
        arrays = [*inputs, empty]
        for number, array in enumerate(arrays):
            array.tofile(tmp_path / f"{number}.bin")
        letters = {"float32": "f", "int32": "i", "int16": "s"}
        kinds = [",".join([letters[a.dtype.name], *map(str, a.shape)]) for a in arrays]
        name = str(variable.name_hint)
        subprocess.run([*emulated, str(tmp_path / "main"), name, *kinds], check=True, cwd=tmp_path)
        return np.fromfile(tmp_path / "y.bin", empty.dtype).reshape(empty.shape)

    main = module["main"]
    values = {main.params[0]: x}
    made_calls = 0
    for binding in main.body.blocks[0].bindings:
        call = binding.value
        if not isinstance(call, relax.Call):
            values[binding.var] = values[call]
            continue
        assert call.op.name == "relax.call_tir"
        given = [values[a] if a in values else a.value.numpy() for a in call.args[1].fields]
        values[binding.var] = run(call.args[0], given)
        made_calls += 1
    assert made_calls >= calls
    expected = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(values[main.body.body], expected, rtol=1e-4, atol=1e-5)
