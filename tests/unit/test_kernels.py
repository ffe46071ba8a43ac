"""Our kernels against ONNX Runtime: every shape, stride, padding, sparsity and number of lanes."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from hwbench.errors import StageError
from hwbench.kernels import (
    build,
    choose,
    columns,
    encode,
    explain,
    graph,
    layout_transforms,
    layouts,
    lower,
    memory,
    roofs,
    template,
)
from hwbench.kernels.layout_transforms import LayoutTransform
from hwbench.kernels.problem import (
    WHOLE,
    Config,
    OutputLanes,
    PairLists,
    Problem,
    Reading,
    RowLists,
)
from hwbench.kernels.template import Epilogue
from hwbench.kernels.values import LoweredLayer

# Every number of lanes runs on this machine: 16 with AVX-512, 8 with AVX2, 4 with SSE.
MACHINES = {lanes: build.machine(cpu) for cpu, lanes in (("haswell", 8), ("nehalem", 4))}
if build.machine().lanes == 16:
    MACHINES[16] = build.machine()
few = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True, scope="module")
def spoilt_memory() -> Iterator[None]:
    """Memory that is new, and read before it was written, holds huge numbers instead of zeros."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    perturb = -6
    if mallopt is not None:
        mallopt(perturb, 128)  # 3.4e38 in every float that is allocated
    yield
    if mallopt is not None:
        mallopt(perturb, 0)


def document(
    nodes: Sequence[Any], weights: dict[str, np.ndarray], shape: Sequence[int], opset: int = 20
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    body = helper.make_graph(list(nodes), "net", [x], [y], constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def ours(
    path: Path, x: np.ndarray, lanes: int, pick: int = 0, threads: int = 1,
    choice: Callable[[Problem], Config] | None = None,
) -> tuple[np.ndarray, list[LoweredLayer]]:  # fmt: skip
    """Return what our kernels answer, each layer with its `pick`-th configuration or `choice`."""
    made = MACHINES[lanes]
    if threads > 1:
        made = build.machine(made.mcpu, threads=threads)

    def chosen(problem: Problem) -> Config:
        found = choose.candidates(problem, made)
        return found[pick % len(found)]

    lowered = lower.lower(graph.read(path, len(x)), made, choice or chosen)
    executable = tvm.compile(build.prepare(lowered.module, None, made), made.target)
    machine = relax.VirtualMachine(executable, tvm.cpu(0))
    return machine["main"](tvm.runtime.tensor(x)).numpy(), lowered.layers


def theirs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


def agree(
    model: onnx.ModelProto, x: np.ndarray, folder: Path, lanes: int, pick: int = 0, threads: int = 1
) -> list[LoweredLayer]:
    path = folder / "m.onnx"
    onnx.save(model, str(path))
    found, layers = ours(path, x, lanes, pick, threads)
    expected = theirs(model, x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * max(float(np.abs(expected).max()), 1e-3)
    return layers


def pruned(rng: np.random.Generator, shape: Sequence[int], kind: str) -> np.ndarray:
    """Return weights with zeros: ``one`` has a single non-zero, ``rows`` empty rows."""
    weights = rng.standard_normal(shape).astype(np.float32)
    if kind == "dense":
        return weights
    if kind == "empty":
        return np.zeros_like(weights)
    if kind == "one":
        single = np.zeros_like(weights)
        single.flat[rng.integers(single.size)] = 1.5
        return single
    weights *= rng.random(shape) < {"half": 0.5, "rows": 0.4, "ninety": 0.1}[kind]
    if kind == "rows":
        weights[rng.random(len(weights)) < 0.5] = 0
    return weights


KINDS = ("dense", "half", "ninety", "rows", "one", "empty")


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    if draw(st.booleans()):
        kernel = (kernel[0], kernel[0])
    dilation = draw(st.sampled_from([1, 1, 1, 2]))
    pads = draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))
    if draw(st.booleans()):
        pads = [kernel[0] // 2, kernel[1] // 2] * 2
    stride = draw(st.sampled_from([1, 1, 2, 2, 3]))
    size = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    if draw(st.booleans()):
        size = (8 * draw(st.integers(1, 4)), 8 * draw(st.integers(1, 4)))
    size = tuple(  # type: ignore[assignment]
        max(n, dilation * (k - 1) + 1 - before - after)
        for n, k, before, after in zip(size, kernel, pads[:2], pads[2:], strict=True)
    )
    groups = draw(st.sampled_from([1, 1, 1, 2, 0]))  # 0: depthwise
    channels, rows = draw(st.integers(1, 9)), draw(st.integers(1, 21))
    if groups == 0:
        groups = rows = channels
    elif groups == 2:
        channels, rows = 2 * channels, 2 * rows
    return {
        "kernel": kernel,
        "dilations": [dilation, dilation],
        "pads": pads,
        "strides": [stride, draw(st.sampled_from([stride, stride, 1]))],
        "size": size,
        "group": groups,
        "channels": channels,
        "rows": rows,
        "batch": draw(st.sampled_from([1, 1, 1, 3])),
        "zeros": draw(st.sampled_from(KINDS)),
        "after": draw(st.sampled_from(["", "Relu", "Clip", "HardSwish"])),
        "seed": draw(st.integers(0, 9)),
    }


def convolution(c: dict[str, Any], seed: int = 0) -> tuple[onnx.ModelProto, np.ndarray]:
    rng = np.random.default_rng(c.get("seed", seed))
    shape = (c["rows"], c["channels"] // c["group"], *c["kernel"])
    weights = {"w": pruned(rng, shape, c["zeros"])}
    weights["b"] = rng.standard_normal(c["rows"]).astype(np.float32)
    given_ = {k: c[k] for k in ("dilations", "pads", "strides", "group")}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=c["kernel"], **given_)]
    after = c["after"] or "Identity"
    if after == "Clip":
        weights |= {"low": np.array(0, np.float32), "high": np.array(1.5, np.float32)}
        nodes.append(helper.make_node("Clip", ["c", "low", "high"], ["y"]))
    else:
        nodes.append(helper.make_node(after, ["c"], ["y"]))
    x = rng.standard_normal((c["batch"], c["channels"], *c["size"])).astype(np.float32)
    return document(nodes, weights, x.shape[1:]), x


@pytest.mark.parametrize("lanes", MACHINES)
@given(shape=convolutions(), pick=st.integers(0, 500), threads=st.sampled_from([1, 1, 2, 3]))
@few
def test_convolutions(
    shape: dict[str, Any], pick: int, threads: int, lanes: int, tmp_path: Path
) -> None:
    model, x = convolution(shape)
    agree(model, x, tmp_path, lanes, pick, threads)


@pytest.mark.parametrize("lanes", MACHINES)
@given(
    shape=convolutions(), rows=st.integers(0, 40), height=st.integers(1, 3),
    pixels=st.integers(1, 18), ahead=st.sampled_from([64, 1000, 1 << 18]),
    threads=st.sampled_from([1, 1, 2]), residual=st.booleans(),
)  # fmt: skip
@few
def test_output_channels_in_the_lanes(
    shape: dict[str, Any], rows: int, height: int, pixels: int, ahead: int, threads: int,
    residual: bool, lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Rows that fill no block, pixels that fill no square, cuts of the taps, several threads."""
    monkeypatch.setattr("hwbench.kernels.dense.AHEAD_BYTES", ahead)
    shape |= {"rows": height * lanes + rows, "group": 1}
    model, x = convolution(shape)
    if residual:
        other = pruned(
            np.random.default_rng(rows), (shape["rows"], shape["channels"], 1, 1), "half"
        )
        whole = {k: shape[k] for k in ("dilations", "pads", "strides")}
        weights = np.zeros((*other.shape[:2], *shape["kernel"]), np.float32)
        weights[:, :, :1, :1] = other
        model.graph.initializer.append(numpy_helper.from_array(weights, "o"))
        model.graph.node.append(helper.make_node("Conv", ["x", "o"], ["r"], **whole))
        model.graph.node.append(helper.make_node("Add", ["y", "r"], ["s"]))
        model.graph.node.append(helper.make_node("Relu", ["s"], ["z"]))
        model.graph.output[0].name = "z"
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    across = []

    def chosen(problem: Problem) -> Config:
        if not isinstance(problem.target, layouts.Planar):
            return choose.candidates(problem, MACHINES[lanes])[0]
        wide = layouts.cover(problem.target.width, pixels)[1]
        across.append(OutputLanes(wide, height))
        return across[-1]

    found, layers = ours(path, x, lanes, threads=threads, choice=chosen)
    assume(across)
    expected = theirs(model, x)
    assert np.abs(found - expected).max() <= 1e-5 * max(float(np.abs(expected).max()), 1e-3)
    assert sum(layer.config.startswith("across") for layer in layers) == len(across)


@pytest.mark.parametrize("lanes", MACHINES)
@given(
    shape=convolutions(), rows=st.integers(1, 21), zeros=st.sampled_from(KINDS),
    fused=st.booleans(), residual=st.booleans(), infinite=st.booleans(), pick=st.integers(0, 500),
)  # fmt: skip
@settings(few, max_examples=5)
def test_a_depthwise_layer_before_a_point(
    shape: dict[str, Any], rows: int, zeros: str, fused: bool, residual: bool, infinite: bool,
    pick: int, lanes: int, tmp_path: Path,
) -> None:  # fmt: skip
    """The pair is one kernel or two; an infinite pixel spreads no further in either."""
    shape |= {"rows": shape["channels"], "group": shape["channels"]}
    model, x = convolution(shape)
    rng = np.random.default_rng(rows)
    rows = shape["channels"] if residual else rows
    weights = {
        "p": pruned(rng, (rows, shape["channels"], 1, 1), zeros),
        "o": pruned(rng, (rows, shape["channels"], *shape["kernel"]), "half"),
    }
    given_ = {k: shape[k] for k in ("dilations", "pads", "strides")}
    nodes = [helper.make_node("Conv", ["y", "p"], ["z"])]
    if residual:  # what is added behind the pair comes from a layer of its own
        nodes.insert(0, helper.make_node("Conv", ["x", "o"], ["r"], **given_))
        nodes.append(helper.make_node("Add", ["z", "r"], ["s"]))
    model.graph.node.extend([*nodes, helper.make_node("Relu", ["s" if residual else "z"], ["e"])])
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items())
    model.graph.output[0].name = "e"
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))

    def chosen(problem: Problem) -> Config:
        found = choose.candidates(problem, MACHINES[lanes])
        if problem.before is not None:
            found = [c for c in found if (c.reading is Reading.FUSED) == fused]
        return found[pick % len(found)]

    if infinite:
        x[0, 0, 0, 0] = np.inf
    found, layers = ours(path, x, lanes, choice=chosen)
    expected = theirs(model, x)
    clean = np.isfinite(expected)
    wrong = np.abs(found[clean] - expected[clean]).max(initial=0)
    assert wrong <= 1e-5 * max(float(np.abs(expected[clean]).max(initial=0)), 1e-3)
    assert fused or not any(layer.within for layer in layers)


def test_a_depthwise_layer_that_two_read_is_stored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"d": pruned(rng, (6, 1, 3, 3), "dense"), "p": pruned(rng, (6, 6, 1, 1), "half")}
    nodes = [
        helper.make_node("Conv", ["x", "d"], ["a"], group=6, pads=[1] * 4),
        helper.make_node("Conv", ["a", "p"], ["b"]),
    ]
    x = rng.standard_normal((1, 6, 16, 16)).astype(np.float32)
    twice = [*nodes, helper.make_node("Add", ["b", "a"], ["y"])]
    for listed, within in (
        ([*nodes, helper.make_node("Relu", ["b"], ["y"])], ["p", ""]),
        (twice, ["", ""]),
    ):
        path = tmp_path / "m.onnx"
        model = document(listed, weights, x.shape[1:])
        onnx.save(model, str(path))
        found, layers = ours(path, x, 8, choice=lambda p: choose.candidates(p, MACHINES[8])[-1])
        np.testing.assert_allclose(found, theirs(model, x), rtol=1e-4, atol=1e-5)
        assert [bool(layer.within) for layer in layers] == [bool(name) for name in within]


@pytest.mark.parametrize("lanes", MACHINES)
@given(
    kind=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pad=st.integers(0, 1),
    size=st.tuples(st.integers(4, 17), st.integers(4, 17)),
    counted=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(few, max_examples=8)
def test_pooling(
    kind: str,
    kernel: int,
    stride: int,
    pad: int,
    size: tuple[int, int],
    counted: bool,
    seed: int,
    lanes: int,
    tmp_path: Path,
) -> None:
    rest: dict[str, Any] = {"count_include_pad": int(counted)} if kind == "AveragePool" else {}
    pads = [min(pad, kernel // 2)] * 4
    node = helper.make_node(
        kind, ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, **rest
    )
    # Negative everywhere: a maximum that pads with zeros would be seen.
    x = -1 - np.random.default_rng(seed).random((2, 3, *size)).astype(np.float32)
    agree(document([node], {}, x.shape[1:]), x, tmp_path, lanes)


@pytest.mark.parametrize("lanes", MACHINES)
@given(
    tokens=st.sampled_from([(1,), (2,), (7,), (33,), (1, 5), (2, 20)]),
    columns=st.integers(1, 40),
    rows=st.integers(1, 70),
    zeros=st.sampled_from(KINDS),
    operator=st.sampled_from(["Gemm", "MatMul"]),
    after=st.sampled_from(["", "Relu", "Add"]),
    pick=st.integers(0, 500),
)
@few
def test_linear(
    tokens: tuple[int, ...],
    columns: int,
    rows: int,
    zeros: str,
    operator: str,
    after: str,
    pick: int,
    lanes: int,
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(columns)
    weights = {"w": pruned(rng, (columns, rows), zeros)}
    weights["b"] = rng.standard_normal(rows).astype(np.float32)
    if operator == "Gemm" and len(tokens) == 1:
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["l"])]
    else:
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("Add", ["b", "m"], ["l"]),
        ]
    if after == "Add":
        weights["v"] = pruned(rng, (columns, rows), "half")
        nodes.append(helper.make_node("MatMul", ["x", "v"], ["o"]))
        nodes.append(helper.make_node("Add", ["l", "o"], ["y"]))
    else:
        nodes.append(helper.make_node(after or "Identity", ["l"], ["y"]))
    x = rng.standard_normal((*tokens, columns)).astype(np.float32)
    agree(document(nodes, weights, x.shape[1:]), x, tmp_path, lanes, pick)


def block(rng: np.random.Generator, size: int, channels: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """A residual block with norms, a strided shortcut, a pool, the mean and a classifier."""
    weights: dict[str, np.ndarray] = {}
    nodes = []

    def conv(x: str, y: str, rows: int, inputs: int, kernel: int, stride: int = 1) -> None:
        weights[f"{y}.w"] = pruned(rng, (rows, inputs, kernel, kernel), "half")
        parts = (("g", 0.5), ("h", 0.1), ("m", 0.1), ("v", 0.5))
        for name, least in parts:
            weights[f"{y}.{name}"] = (least + rng.random(rows)).astype(np.float32)
        pad = [kernel // 2] * 4
        nodes.append(
            helper.make_node("Conv", [x, f"{y}.w"], [f"{y}.c"], strides=[stride] * 2, pads=pad)
        )
        numbers = [f"{y}.{name}" for name, _ in parts]
        nodes.append(helper.make_node("BatchNormalization", [f"{y}.c", *numbers], [y]))

    conv("x", "a", channels, 3, 3)
    nodes.append(helper.make_node("Relu", ["a"], ["ar"]))
    conv("ar", "b", channels + 3, channels, 3, 2)
    conv("ar", "s", channels + 3, channels, 1, 2)
    nodes.append(helper.make_node("Add", ["s", "b"], ["sum"]))
    nodes.append(helper.make_node("Relu", ["sum"], ["sr"]))
    conv("sr", "e", channels + 3, channels + 3, 3)
    nodes.append(helper.make_node("Add", ["e", "sr"], ["f"]))
    nodes.append(helper.make_node("MaxPool", ["f"], ["p"], kernel_shape=[2, 2], strides=[2, 2]))
    nodes.append(helper.make_node("Sigmoid", ["p"], ["g"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["g"], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    weights["fc"] = pruned(rng, (10, channels + 3), "half")
    nodes.append(helper.make_node("Gemm", ["flat", "fc"], ["y"], transB=1))
    x = rng.standard_normal((2, 3, size, size)).astype(np.float32)
    return document(nodes, weights, x.shape[1:]), x


@pytest.mark.parametrize("lanes", MACHINES)
@pytest.mark.parametrize("size", [32, 15])
def test_networks(lanes: int, size: int, tmp_path: Path) -> None:
    model, x = block(np.random.default_rng(size), size, 5)
    layers = agree(model, x, tmp_path, lanes, pick=7)
    assert len(layers) == 5


def test_two_threads(tmp_path: Path) -> None:
    model, x = block(np.random.default_rng(0), 32, 5)
    agree(model, x, tmp_path, max(MACHINES), pick=3, threads=2)


def test_attention(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens, wide = 9, 12
    weights = {n: pruned(rng, (wide, wide), "half") for n in ("q", "k", "v", "o")}
    weights |= {"s": np.ones(wide, np.float32), "h": rng.random(wide).astype(np.float32)}
    weights["scale"] = np.array(0.3, np.float32)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s", "h"], ["n"], axis=-1),
        *(helper.make_node("MatMul", ["n", w], [f"n{w}"]) for w in ("q", "k", "v")),
        helper.make_node("Transpose", ["nk"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["nq", "kt"], ["qk"]),
        helper.make_node("Mul", ["qk", "scale"], ["qs"]),
        helper.make_node("Softmax", ["qs"], ["a"], axis=-1),
        helper.make_node("MatMul", ["a", "nv"], ["av"]),
        helper.make_node("MatMul", ["av", "o"], ["ao"]),
        helper.make_node("Add", ["ao", "x"], ["r"]),
        helper.make_node("Gelu", ["r"], ["g"]),
        helper.make_node("Concat", ["g", "x"], ["y"], axis=1),
    ]
    x = rng.standard_normal((2, tokens, wide)).astype(np.float32)
    agree(document(nodes, weights, x.shape[1:]), x, tmp_path, max(MACHINES), pick=5)


@pytest.mark.parametrize("lanes", MACHINES)
@given(
    batch=st.integers(1, 3), tokens=st.integers(1, 37), heads=st.integers(1, 3),
    deep=st.integers(1, 9), form=st.sampled_from(["slice", "split", "gather"]),
    activation=st.sampled_from(["Gelu", "Sigmoid", "Relu"]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(few, max_examples=3)
def test_a_transformer_block(
    batch: int, tokens: int, heads: int, deep: int, form: str, activation: str, seed: int,
    lanes: int, tmp_path: Path,
) -> None:  # fmt: skip
    """Attention as exporters write it, with several heads and images, and the layers around."""
    rng = np.random.default_rng(seed)
    wide = heads * deep
    weights: dict[str, np.ndarray] = {
        "qkv": pruned(rng, (wide, 3 * wide), "half"), "o": pruned(rng, (wide, wide), "half"),
        "up": pruned(rng, (wide, 20), "half"), "down": pruned(rng, (20, wide), "half"),
        "place": rng.standard_normal((1, tokens, wide)).astype(np.float32),
        "gain": rng.random(wide).astype(np.float32), "shift": rng.random(wide).astype(np.float32),
        "parts": np.array([0, tokens, 3, heads, deep]), "whole": np.array([0, tokens, wide]),
        "scale": np.array(0.7, np.float32), "deep": np.array(1.3, np.float32),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "o"], ["x1"]),
        node("Add", ["x1", "place"], ["x2"]),
        node("LayerNormalization", ["x2", "gain", "shift"], ["n"], axis=-1, epsilon=1e-3),
        node("MatMul", ["n", "qkv"], ["all"]),
        node("Reshape", ["all", "parts"], ["five"]),
        node("Transpose", ["five"], ["turned"], perm=[2, 0, 3, 1, 4]),
    ]
    for i, name in enumerate("qkv"):
        if form == "gather":
            weights[f"i{i}"] = np.array(i)
            nodes.append(node("Gather", ["turned", f"i{i}"], [f"{name}0"], axis=0))
            continue
        if form == "slice":
            for end in (i, i + 1):
                weights[f"i{end}"] = np.array([end])
            nodes.append(node("Slice", ["turned", f"i{i}", f"i{i + 1}", "i0"], [f"{name}1"]))
        weights["i0"] = np.array([0])
        nodes.append(node("Squeeze", [f"{name}1", "i0"], [f"{name}0"]))
    if form == "split":
        nodes.insert(6, node("Split", ["turned"], ["q1", "k1", "v1"], axis=0, num_outputs=3))
    nodes += [
        node("Mul", ["q0", "scale"], ["q"]),
        node("Transpose", ["k0"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Div", ["s", "deep"], ["sd"]),
        node("Softmax", ["sd"], ["a"], axis=-1),
        node("MatMul", ["a", "v0"], ["av"]),
        node("Transpose", ["av"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "whole"], ["flat"]),
        node("MatMul", ["flat", "o"], ["out"]),
        node("Add", ["x2", "out"], ["r"]),
        node("LayerNormalization", ["r", "gain"], ["n2"], axis=-1),
        node("MatMul", ["n2", "up"], ["u"]),
        node(activation, ["u"], ["g"]),
        node("MatMul", ["g", "down"], ["y"]),
    ]
    x = rng.standard_normal((batch, tokens, wide)).astype(np.float32)
    agree(document(nodes, weights, x.shape[1:]), x, tmp_path, lanes, pick=seed)


IMAGES = (
    "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Relu", "Sigmoid", "HardSwish",
    "Gelu", "Clip", "Softmax", "Concat", "Add", "Transpose", "Reshape", "Flatten", "Conv",
)  # fmt: skip
TOKENS = (
    "LayerNormalization", "Softmax", "Gelu", "Sigmoid", "HardSwish", "Relu", "Concat", "Add",
    "Transpose", "Reshape", "MatMul",
)  # fmt: skip


class Chain:
    """A network that is written operator by operator, its shape known at every step."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng, self.shape, self.first = rng, shape, shape
        self.at = "x"
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def put(self, operator: str) -> None:
        """Append an operator with drawn attributes, where it fits what is there."""
        if operator in ("MaxPool", "AveragePool", "Conv"):
            self._window(operator)
        elif operator in ("Concat", "Add", "Transpose", "Reshape", "Flatten"):
            self._moved(operator)
        else:
            self._computed(operator)

    def _moved(self, operator: str) -> None:
        shape, rng = self.shape, self.rng
        if operator == "Concat":
            axis = int(rng.integers(1, len(shape)))
            doubled = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
            self._node(operator, (self.at,), doubled, axis=axis)
        elif operator == "Add":  # the input again: a residual sum, if it still fits
            self._node(operator, ("x" if shape == self.first else self.at,), shape)
        elif operator == "Transpose":
            order = [0, *(1 + rng.permutation(len(shape) - 1)).tolist()]
            self._node(operator, (), tuple(shape[i] for i in order), perm=order)
        elif operator == "Reshape":
            flat = (shape[0], shape[1], math.prod(shape[2:]))
            self._node(operator, (self._constant(np.array(flat)),), flat)
        else:
            self._node(operator, (), (shape[0], math.prod(shape[1:])))

    def _computed(self, operator: str) -> None:
        shape, rng = self.shape, self.rng
        if operator == "GlobalAveragePool":
            self._node(operator, (), (*shape[:2], 1, 1))
        elif operator == "ReduceMean":
            keep = int(rng.integers(2))
            axes = self._constant(np.array([2, 3]))
            self._node(operator, (axes,), (*shape[:2], *(1, 1)[: 2 * keep]), keepdims=keep)
        elif operator == "Clip":
            ends = (np.array(-0.5, np.float32), np.array(1.25, np.float32))
            self._node(operator, tuple(map(self._constant, ends)), shape)
        elif operator == "Softmax":
            self._node(operator, (), shape, axis=int(rng.integers(1, len(shape))))
        elif operator == "LayerNormalization":
            numbers = [rng.random(shape[-1]).astype(np.float32) for _ in range(2)]
            self._node(operator, tuple(map(self._constant, numbers)), shape, axis=-1)
        elif operator == "MatMul":
            matrix = pruned(rng, (shape[-1], int(rng.integers(1, 20))), "half")
            self._node(operator, (self._constant(matrix),), (*shape[:-1], matrix.shape[1]))
        else:
            given = {"approximate": "tanh"} if operator == "Gelu" and rng.integers(2) else {}
            self._node(operator, (), shape, **given)

    def _window(self, operator: str) -> None:
        kernel, stride = (int(self.rng.integers(1, 4)) for _ in range(2))
        pad = kernel // 2
        high, wide = ((n + 2 * pad - kernel) // stride + 1 for n in self.shape[2:])
        rows = self.shape[1]
        rest: tuple[str, ...] = ()
        if operator == "Conv":
            rows = int(self.rng.integers(1, 9))
            matrix = pruned(self.rng, (rows, self.shape[1], kernel, kernel), "half")
            rest = (self._constant(matrix),)
        given = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        self._node(operator, rest, (self.shape[0], rows, high, wide), **given)

    def _constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = value
        return name

    def _node(
        self, operator: str, rest: tuple[str, ...], shape: tuple[int, ...], **given: Any
    ) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.at, *rest], [name], **given))
        self.at, self.shape = name, shape


@given(
    batch=st.integers(1, 3), channels=st.integers(1, 9),
    size=st.tuples(st.integers(1, 18), st.integers(1, 18)), tokens=st.booleans(),
    numbers=st.lists(st.integers(0, 999), min_size=2, max_size=5), seed=st.integers(0, 999),
    lanes=st.sampled_from(list(MACHINES)), infinite=st.booleans(),
)  # fmt: skip
@example(
    batch=1, channels=1, size=(1, 1), tokens=False, numbers=[0, 8], seed=0, lanes=8, infinite=False
)  # fmt: skip
@settings(few, max_examples=12)
def test_operators_in_any_order(
    batch: int, channels: int, size: tuple[int, int], tokens: bool, numbers: list[int], seed: int,
    lanes: int, infinite: bool, tmp_path: Path,
) -> None:  # fmt: skip
    """What stands between heavy layers, behind them, before them and behind each other."""
    rng = np.random.default_rng(seed)
    shape = (batch, size[0], channels) if tokens else (batch, channels, *size)
    chain = Chain(rng, shape)
    chain.put("MatMul" if tokens else "Conv")
    for number in numbers:
        ranks = {4: IMAGES, 3: TOKENS}
        known = ranks.get(len(chain.shape), ("Relu", "Softmax", "MatMul", "Sigmoid"))
        chain.put(known[number % len(known)])
    chain.nodes.append(helper.make_node("Identity", [chain.at], ["y"]))
    x = rng.standard_normal(shape).astype(np.float32)
    # ONNX Runtime's MaxPool drops NaN, or not, by where in the window it lies.
    if infinite and all(node.op_type != "MaxPool" for node in chain.nodes):
        x.flat[rng.integers(x.size)] = np.nan
    model = document(chain.nodes, chain.weights, shape[1:])
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    found, _ = ours(path, x, lanes, seed)
    expected = theirs(model, x)
    assert found.shape == expected.shape
    clean = np.isfinite(expected)
    wrong = np.abs(found[clean] - expected[clean]).max(initial=0)
    # A norm divides by a spread that may be as small as 0.003: rounding before it grows as much.
    grown = 10 if any(node.op_type == "LayerNormalization" for node in chain.nodes) else 1
    assert wrong <= 1e-5 * grown * max(float(np.abs(expected[clean]).max(initial=0)), 1e-3)


@pytest.mark.parametrize("lanes", MACHINES)
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_softmax_down_an_image_narrower_than_a_vector(
    axis: int, lanes: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": pruned(rng, (8, 1, 3, 3), "half")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, strides=[3, 3]),
        helper.make_node("Softmax", ["c"], ["y"], axis=axis),
    ]
    x = rng.standard_normal((1, 1, 4, 4)).astype(np.float32)
    agree(document(nodes, weights, x.shape[1:]), x, tmp_path, lanes)


@pytest.mark.parametrize("lanes", MACHINES)
def test_exponentials_and_what_is_made_of_them(lanes: int) -> None:
    made = MACHINES[lanes]
    x = np.concatenate([np.linspace(-100, 88, 4096), [0, -0.0, -np.inf, np.nan]]).astype(np.float32)
    x = np.resize(x, layouts.round_up(x.size, 16))

    def run(result: Any) -> np.ndarray:
        function = columns.map_kernel("f", x.size, lanes, 1, result)
        library = tvm.compile(tvm.IRModule({"f": function}), target=made.target)
        y = tvm.runtime.tensor(np.zeros_like(x))
        library["f"](tvm.runtime.tensor(x), y)
        found: np.ndarray = y.numpy()
        return found

    exact = np.where(x < -87, 0, np.exp(x.astype(np.float64)))
    np.testing.assert_allclose(run(template.exponential), exact, rtol=1e-6)
    gelu = run(lambda v: template.activate(v, Epilogue(activation="gelu")))
    finite = np.isfinite(x)
    expected = [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x[finite].astype(float)]
    np.testing.assert_allclose(gelu[finite], expected, rtol=1e-5, atol=3e-6)
    assert np.isnan(gelu[np.isnan(x)]).all()


@pytest.mark.parametrize("lanes", MACHINES)
def test_tiles_that_write_over_others_keep_their_order_on_many_threads(
    lanes: int, tmp_path: Path
) -> None:
    """Rows of another length overhang; 24 rows in blocks of 8 are 3 parts for 4 threads."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((24, 5, 2, 2)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)]
    x = rng.standard_normal((2, 5, 13, 13)).astype(np.float32)
    model, path = document(nodes, weights, x.shape[1:]), tmp_path / "m.onnx"
    onnx.save(model, str(path))

    def choice(problem: Problem) -> Config:
        return RowLists(1, WHOLE, 8)

    made = build.machine(MACHINES[lanes].mcpu, threads=4)
    module = lower.lower(graph.read(path, 2), made, choice).module
    loops = [line for line in str(module).splitlines() if "T.parallel" in line]
    assert any("T.parallel(3)" in line for line in loops), loops
    found, _ = ours(path, x, lanes, threads=4, choice=choice)
    np.testing.assert_allclose(found, theirs(model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lanes", MACHINES)
@pytest.mark.parametrize("tokens", [1, 16])
def test_infinity_stays_infinity_in_lists_that_are_padded(
    lanes: int, tokens: int, tmp_path: Path
) -> None:
    """Rows of one weight and of more walk together; all have the one that reads the infinity."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((20, 31)).astype(np.float32)
    weights[1:] *= rng.random((19, 31)) < 0.1
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = document(nodes, {"w": weights}, (tokens, 20))
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    x = rng.standard_normal((1, tokens, 20)).astype(np.float32)
    x[0, 0, 0] = np.inf
    for pick in range(8):
        found, _ = ours(path, x, lanes, pick)
        np.testing.assert_array_equal(found[0, 0], np.copysign(np.inf, weights[0]))


@pytest.mark.parametrize("lanes", MACHINES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("size", [16, 9])
def test_what_is_not_finite_spreads_no_further(
    lanes: int, bad: float, size: int, tmp_path: Path
) -> None:
    """Where the dense layer stays finite, so do we; a weight that is not zero passes it on."""
    rng = np.random.default_rng(3)
    weights = {
        "w": pruned(rng, (6, 4, 3, 3), "half"),
        "v": pruned(rng, (6, 6, 3, 3), "dense"),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Conv", ["c", "v"], ["y"], pads=[1] * 4),
    ]
    model = document(nodes, weights, (4, size, size))
    x = rng.standard_normal((1, 4, size, size)).astype(np.float32)
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    for row, column in ((0, 0), (size // 2, size - 1), (size - 1, 3)):
        spoilt = x.copy()
        spoilt[0, 1, row, column] = bad
        expected = theirs(model, spoilt)
        for pick in (0, 40):
            found, _ = ours(path, spoilt, lanes, pick)
            clean = np.isfinite(expected)
            np.testing.assert_allclose(found[clean], expected[clean], rtol=1e-4, atol=1e-5)
            assert not np.isfinite(found[0, :, row, column]).any()


@given(
    rows=st.integers(1, 20),
    taps=st.integers(1, 40),
    k_block=st.integers(1, 50),
    row_block=st.sampled_from([1, 2, 3, 4, 8]),
    group=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
    zeros=st.sampled_from(KINDS),
)
@settings(deadline=None)
def test_encoding_holds_the_matrix(
    rows: int, taps: int, k_block: int, row_block: int, group: int, seed: int, zeros: str
) -> None:
    matrix = pruned(np.random.default_rng(seed), (rows, taps), zeros)
    if row_block == 3:  # blocks may overlap: one K block, no groups
        k_block, group = taps, 1
    coded = encode.encode(matrix, np.arange(taps), k_block, row_block, group)
    # Room for what pads the rows: planes that nobody reads.
    room = layouts.round_up(rows, 8) + (0 if row_block == 3 else 8)
    whole = np.zeros((room, taps))
    for segment in range(len(coded.steps) - 1):
        if row_block == 3:  # rows that two blocks hold are computed twice, not added
            whole[coded.rows[segment] :][:row_block] = 0
        for step in range(coded.steps[segment], coded.steps[segment + 1]):
            for g in range(group):
                first = coded.rows[segment * group + g]
                tap = coded.offsets[step * group + g]
                start = (step * group + g) * row_block
                whole[first : first + row_block, tap] += coded.values[start : start + row_block]
    np.testing.assert_allclose(whole[:rows], matrix, rtol=1e-6)
    assert not whole[rows:].any()


@given(
    rows=st.integers(1, 20), taps=st.integers(1, 40), k_block=st.integers(1, 50),
    seed=st.integers(0, 99), zeros=st.sampled_from(KINDS),
)  # fmt: skip
@settings(deadline=None)
def test_pairs_hold_the_matrix_and_read_no_tap_twice(
    rows: int, taps: int, k_block: int, seed: int, zeros: str
) -> None:
    matrix = pruned(np.random.default_rng(seed), (rows, taps), zeros)
    coded = encode.encode_pairs(matrix, np.arange(taps), k_block)
    assert coded.starts is not None
    whole = np.zeros((layouts.round_up(rows, 2), taps))
    for segment, first in enumerate(coded.rows):
        seen: list[int] = []
        for own in (0, 1):
            number = 2 * segment + own
            for index, step in enumerate(range(coded.steps[number], coded.steps[number + 1])):
                place = coded.starts[number] + index * (1 + own)
                for row in (0, 1):
                    tap, value = coded.offsets[place + own * row], coded.values[step * 2 + row]
                    whole[first + row, tap] += value
                    # What pads a list shares the list's last value: the same tap, side by side.
                    last = coded.offsets[place - 2 + row] if own and index else -1
                    if value and (own or row) and tap != last:
                        seen.append(tap)
        assert len(seen) == len(set(seen))
    np.testing.assert_allclose(whole[:rows], matrix, rtol=1e-6)
    assert not whole[rows:].any()


@given(
    rows=st.integers(1, 40), columns=st.integers(1, 30), seed=st.integers(0, 99),
    zeros=st.sampled_from(KINDS), lanes=st.sampled_from([4, 8, 16]),
)  # fmt: skip
@settings(deadline=None)
def test_slices_hold_the_matrix(rows: int, columns: int, seed: int, zeros: str, lanes: int) -> None:
    matrix = pruned(np.random.default_rng(seed), (rows, columns), zeros)
    coded = encode.sell(matrix, lanes)
    whole = np.zeros((rows + 1, columns))
    for piece in range(len(coded.slices) - 1):
        for step in range(coded.slices[piece], coded.slices[piece + 1]):
            at = slice(step * lanes, (step + 1) * lanes)
            own = coded.rows[piece * lanes : (piece + 1) * lanes]
            np.add.at(whole, (own, coded.columns[at]), coded.values[at])
    np.testing.assert_allclose(whole[:rows], matrix, rtol=1e-6)


@pytest.mark.parametrize("pairs", [False, True])
@given(
    rows=st.integers(1, 20), taps=st.integers(1, 30), k_block=st.integers(1, 30),
    group=st.sampled_from([1, 2]), cuts=st.sets(st.integers(1, 4), max_size=3),
    seed=st.integers(0, 99), zeros=st.sampled_from(KINDS),
)  # fmt: skip
@settings(deadline=None)
def test_parts_of_the_rows_are_joined(
    rows: int, taps: int, k_block: int, group: int, cuts: set[int], seed: int, zeros: str,
    pairs: bool,
) -> None:  # fmt: skip
    matrix = pruned(np.random.default_rng(seed), (rows, taps), zeros)
    firsts = [0, *(4 * cut for cut in sorted(cuts) if 4 * cut < rows)]
    ends = [*firsts[1:], rows]

    def coded(own: np.ndarray) -> encode.Encoded:
        if pairs:
            return encode.encode_pairs(own, np.arange(taps), k_block)
        return encode.encode(own, np.arange(taps), k_block, 1, group)

    parts = [coded(matrix[first:end]) for first, end in zip(firsts, ends, strict=True)]
    whole = encode.joined(parts, firsts)
    k_blocks = -(-taps // k_block)
    lists = 2 if pairs else 1
    for number, (part, first) in enumerate(zip(parts, firsts, strict=True)):
        for block in range(k_blocks):
            at = number * (k_blocks + 1) + block
            names = range(whole.blocks[at], whole.blocks[at + 1])
            for segment, own in zip(names, range(*part.blocks[block : block + 2]), strict=True):
                for g in range(part.group):
                    row = whole.rows[segment * part.group + g]
                    assert row == part.rows[own * part.group + g] + first
                for which in range(lists):
                    here, there = segment * lists + which, own * lists + which
                    steps = [slice(*e.steps[n : n + 2]) for e, n in ((whole, here), (part, there))]
                    width = part.group * part.row_block
                    values = [
                        e.values[s.start * width : s.stop * width]
                        for e, s in zip((whole, part), steps, strict=True)
                    ]
                    np.testing.assert_array_equal(values[0], values[1])
                    if whole.starts is not None and part.starts is not None:
                        place, count = whole.starts[here], len(values[0]) // 2 * (1 + which)
                        mine = part.offsets[part.starts[there] :][:count]
                    else:
                        place, count = steps[0].start * part.group, len(values[0])
                        mine = part.offsets[steps[1].start * part.group :][:count]
                    np.testing.assert_array_equal(whole.offsets[place:][:count], mine)


@given(
    blocks=st.tuples(st.integers(1, 9), st.integers(1, 9)), lanes=st.sampled_from([4, 8, 16]),
    halo=st.integers(0, 2), vectors=st.integers(1, 16),
)  # fmt: skip
def test_tiles_of_blocks_write_every_pixel_and_nothing_beside_them(
    blocks: tuple[int, int], lanes: int, halo: int, vectors: int
) -> None:
    down, across = layouts.GRIDS[lanes]
    size = down * blocks[0], across * blocks[1]
    layout = layouts.Blocked(*size, lanes, halo, (down, across))
    walk = layouts.tiles(layout, layout, layouts.Window((1, 1)), vectors)
    written = {y + v for y in walk.y for v in walk.vy}
    assert written == {int(at) // lanes * lanes for at in layout.index().reshape(-1)}


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)), lanes=st.sampled_from([4, 8, 16]),
    halos=st.tuples(st.integers(0, 3), st.integers(0, 3)), vectors=st.integers(1, 16),
    kernel=st.integers(1, 4),
)  # fmt: skip
def test_tiles_of_rows_write_the_whole_core_and_pixels_last(
    size: tuple[int, int], lanes: int, halos: tuple[int, int], vectors: int, kernel: int
) -> None:
    pads = min(kernel - 1, halos[0])
    window = layouts.Window((kernel, kernel), pads=(pads,) * 4)
    high, wide = (max(n, kernel) for n in size)
    source = layouts.Planar.of(high, wide, lanes, halos[0])
    target = layouts.Planar.of(*window.output(high, wide), lanes, halos[1])
    walk = layouts.tiles(source, target, window, vectors)
    plane = np.full(target.plane, -1)
    for x, y in zip(walk.x, walk.y, strict=True):
        for vx, vy in zip(walk.vx, walk.vy, strict=True):
            plane[y + vy : y + vy + lanes] = x + vx + np.arange(lanes)
    core = slice(target.lead, target.lead + target.core)
    assert (plane[core] >= 0).all()
    rows, columns = np.mgrid[: target.height, : target.width]
    read = source.lead + rows * source.row + columns
    np.testing.assert_array_equal(plane[target.index()], read)


def test_a_block_holds_its_neighbours_edges() -> None:
    layout = layouts.Blocked(8, 12, 16, 1, (4, 4))
    table = layouts.gather_table(layout, np.arange(96).reshape(8, 12))
    np.testing.assert_array_equal(table[layout.index()], np.arange(96).reshape(8, 12))
    above = table[layout.position(-1, 0) : layout.position(-1, 0) + 16].reshape(4, 4)
    assert (above[0] == -1).all()
    np.testing.assert_array_equal(above[1], [12, 15, 18, 21])


@pytest.mark.parametrize("lanes", MACHINES)
@given(
    size=st.integers(1, 80), count=st.integers(1, 70), step=st.sampled_from([1, 1, 3]),
    near=st.booleans(), gaps=st.booleans(), fill=st.sampled_from([0.0, -math.inf]),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(few, max_examples=10)
def test_every_element_moves_to_its_place(
    size: int, count: int, step: int, near: bool, gaps: bool, fill: float, seed: int, lanes: int
) -> None:
    """Put together from a few vectors or gathered, from anywhere in the source's channel."""
    rng = np.random.default_rng(seed)
    places = np.sort(rng.integers(0, size, count)) if near else rng.integers(0, size, count)
    table = np.where(gaps & (rng.random(count) < 0.3), -1, places).astype(np.int32)
    move = LayoutTransform(2, 3, 4 * size, size, 5 * count * step, count * step, step,
                      8 * size, 10 * count * step, lanes, 1, fill)  # fmt: skip
    function, constants = layout_transforms.transform_kernel("m", move, table)
    library = tvm.compile(tvm.IRModule({"m": function}), target=MACHINES[lanes].target)
    x = rng.standard_normal((2, 4, size)).astype(np.float32)
    y = tvm.runtime.tensor(np.zeros(move.y_size, np.float32))
    flat = tvm.runtime.tensor(x.reshape(-1))
    library["m"](flat, *map(tvm.runtime.tensor, constants), y)
    found = y.numpy().reshape(2, 5, count, step)[:, :3, :, 0]
    np.testing.assert_array_equal(found, np.where(table < 0, fill, x[:, :3, table]))


def test_an_operator_nobody_knows_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["y"])]
    onnx.save(document(nodes, {}, (8, 8)), str(tmp_path / "m.onnx"))
    with pytest.raises(StageError, match="Det"):
        lower.lower(graph.read(tmp_path / "m.onnx", 1), build.machine(), lambda p: RowLists(4, 64))


def test_a_free_size_is_refused(tmp_path: Path) -> None:
    model = document([helper.make_node("Relu", ["x"], ["y"])], {}, (3, 8, 8))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(StageError, match="dynamic dimension 2"):
        graph.read(tmp_path / "m.onnx", 1)


def test_a_processor_nobody_knows_is_refused() -> None:
    with pytest.raises(StageError, match="cortex-a72") as caught:
        build.machine("cortex-a7222", "aarch64-linux-gnu")
    assert "cortex-a72" in caught.value.mend
    assert build.machine("cortex-a72", "aarch64-linux-gnu").lanes == 4
    with pytest.raises(StageError):
        build.machine("cortex-a72", "no-such-system")


def point(rng: np.random.Generator, rows: int, channels: int, size: int = 4) -> Problem:
    """A 1x1 convolution."""
    layout = layouts.Planar.of(size, size, build.machine().lanes, 0)
    return Problem(
        layout, layout, layouts.Window((1, 1)), np.arange(channels) * layout.plane,
        pruned(rng, (rows, channels), "half"), np.zeros(rows, np.float32),
        layouts.round_up(channels, 8) * layout.plane, 1, Epilogue(),
    )  # fmt: skip


def test_choices_are_remembered(tmp_path: Path) -> None:
    problem = point(np.random.default_rng(0), 8, 8)
    made, file = build.machine(), tmp_path / "choices.json"
    first = choose.Chooser(made, 5.0, memory.of(made, file))
    config = first(problem)
    assert len(first.new) == 1
    first.save()
    second = choose.Chooser(made, 5.0, memory.of(made, file))
    assert second(problem) == config
    assert not second.new
    # What another machine was found to like is none of ours.
    more = dataclasses.replace(made, threads=2)
    assert memory.of(more, file).recall() == {}
    memory.of(more, file).keep({"roofs": {"L1": 1.0}})
    assert set(memory.of(made, file).recall()) == {problem.signature}
    file.write_text("torn {")
    assert memory.of(made, file).recall() == {}


def test_what_was_not_timed_is_none_of_the_kernels_that_must_be() -> None:
    problem = point(np.random.default_rng(0), 64, 64)
    dense = dataclasses.replace(problem, matrix=np.ones_like(problem.matrix))
    made = build.machine()
    if made.lanes != 16:
        pytest.skip("needs AVX-512: else no kernel has channels in the lanes here")
    configs = choose.candidates(dense, made)
    across = next(config for config in configs if isinstance(config, OutputLanes))
    chooser = choose.Chooser(made, 0.0)
    assert not isinstance(chooser(dense), OutputLanes)
    chooser.times[dense.signature] = {across: 1.0}
    assert chooser(dense) == across


def test_a_race_over_its_budget_stops() -> None:
    problem = point(np.random.default_rng(0), 64, 64)
    configs = choose.candidates(problem, build.machine())
    assert len(configs) > 3
    assert list(choose.timed(problem, configs, build.machine(), 0.0)) == [configs[0]]
    chooser = choose.Chooser(build.machine(), 0.0)
    assert chooser(problem) in configs
    assert not chooser.times


def test_every_kind_is_timed_before_a_second_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the time, sparse is never taken because dense was not tried."""
    problem = point(np.random.default_rng(0), 64, 64)
    asked: list[Config] = []

    def timed(*given: Any) -> dict[Config, float]:
        asked.extend(given[1])
        return dict.fromkeys(given[1], 1.0)

    monkeypatch.setattr(choose, "timed", timed)
    made = build.machine()
    chosen = choose.Chooser(made)(problem)

    def kinds_of(configs: Sequence[Config]) -> set[tuple[int, type[Config]]]:
        return {(config.row_block, type(config)) for config in configs}

    kinds = kinds_of(asked)
    assert kinds >= {(2, PairLists), (4, RowLists), (8, RowLists)}
    assert kinds_of(asked[: len(kinds)]) == kinds
    key = [choose.predicted(problem, config, choose.Core()) for config in asked]
    assert chosen == asked[key.index(min(key))] == asked[0]
    assert len(asked) == min(len(choose.candidates(problem, made)), choose.MOST)


def test_the_reason_names_what_was_tried() -> None:
    eight = RowLists(2, 9, 8)

    def told(form: str, density: float, contest: dict[Config, float]) -> str:
        made = LoweredLayer("a", "f", form, density, 1e6, eight.label, 1e6, "s", 8)
        return explain.rows(
            [made], {"f": [1e-5], "g": [1e-5]}, {"registers": 4e11}, {"s": contest}
        )[0].text

    few = told("dense", 0.9, {eight: 1e-5})
    assert "not tried below 25%" in few
    assert "25% of the register roof" in few
    assert "50% of the network" in few
    both = told("dense", 0.5, {eight: 1e-5, RowLists(2, 9): 2e-5, RowLists(3, 9): 3e-5})
    assert "10 µs a list per 8 rows, 20 µs with a list per row" in both
    pairs = told("dense", 0.5, {eight: 1e-5, PairLists(7, 9): 2e-5})
    assert "20 µs with shared and own lists per 2 rows" in pairs
    lanes = told("dense", 0.5, {eight: 1e-5, OutputLanes(14, 2): 2e-5})
    assert "20 µs with output channels in the lanes" in lanes
    assert "cost model" in told("dense", 0.5, {})
    assert "nothing to skip" in told("depthwise", 0.5, {})
    inside = LoweredLayer("d", "", "depthwise", 1.0, 1e6, within="p")
    assert "computed inside the kernel of p" in explain.rows([inside], {"f": [1e-5]})[0].text
    twice = [LoweredLayer(n, "f", "sparse", 0.1, 1.0) for n in "ab"]
    assert [r.seconds for r in explain.rows(twice, {"f": [1e-5, 3e-5]})] == [1e-5, 3e-5]
    assert "not timed" in explain.rows([LoweredLayer("a", "f", "sparse", 0.1, 1.0)], {})[0].text


def test_a_layer_where_dense_is_faster_is_computed_dense(tmp_path: Path) -> None:
    """What was timed decides, layer by layer, and the note gives both times."""
    rng = np.random.default_rng(0)
    weights = {n: pruned(rng, (16, 16, 3, 3), "half") for n in ("a.weight", "b.weight")}
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["h"], pads=[1] * 4),
        helper.make_node("Conv", ["h", "b.weight"], ["y"], pads=[1] * 4, strides=[2, 2]),
    ]
    x = rng.standard_normal((1, 16, 16, 16)).astype(np.float32)
    model, path = document(nodes, weights, x.shape[1:]), tmp_path / "m.onnx"
    onnx.save(model, str(path))
    made, kept = build.machine(), memory.of(build.machine(), tmp_path / "choices.json")
    problems: list[Problem] = []

    def seen(problem: Problem) -> Config:
        problems.append(problem)
        return choose.candidates(problem, made)[0]

    lower.lower(graph.read(path, 1), made, seen)
    for problem, quick in zip(problems, (8, 2), strict=True):
        found = choose.candidates(problem, made)
        assert {c.row_block for c in found} >= {2, 4, 8}
        times = {c.label: 1e-5 if c.row_block == quick else 3e-5 for c in found}
        kept.keep({problem.signature: times})
    chooser = choose.Chooser(made, 20.0, kept)
    answers, layers = ours(path, x, made.lanes, choice=chooser)
    assert [layer.form for layer in layers] == ["dense", "sparse"]
    assert not chooser.new, "all of it was timed before"
    np.testing.assert_allclose(answers, theirs(model, x), rtol=1e-4, atol=1e-5)
    dense, sparse = explain.rows(layers, {}, contests=chooser.times)
    assert "10 µs a list per 8 rows" in dense.text
    assert "30 µs with shared and own lists per 2 rows" in dense.text
    assert not dense.sparse
    assert sparse.sparse


def test_roofs_are_measured_once(tmp_path: Path) -> None:
    made = build.machine()
    kept = memory.of(made, tmp_path / "m.json")
    kept.keep({roofs.NAME: {"L1": 3e9}})
    assert roofs.known(made, kept) == {"L1": 3e9}
    two = dataclasses.replace(made, threads=2)
    found = memory.Memory(kept.file, kept.fingerprint)
    assert roofs.known(two, found) == {"L1": 6e9}


def test_the_planned_arena_is_what_tvms_analysis_says(tmp_path: Path) -> None:
    model, _ = block(np.random.default_rng(0), 16, 32)
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    made = build.machine()
    lowered = lower.lower(graph.read(path, 1), made, choose.Chooser(made, 0.0, None))
    module = build.prepare(lowered.module, None, made)
    found = build.planned(module, made.target)
    passes = [
        relax.transform.ToNonDataflow(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
    ]
    with made.target:
        said = relax.analysis.estimate_memory_usage(tvm.transform.Sequential(passes)(module))
    with_planning = said.split("With memory planning")[1]
    size = float(with_planning.split("total size ")[1].split(" GB")[0]) * 2**30
    assert found == pytest.approx(size, rel=1e-3)
    assert found >= 16 * 32 * 32 * 4  # one activation at least
