"""Layers of 8 bits that skip blocks of zeros: ONNX Runtime's bytes, to one step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from onnx import helper, numpy_helper

from hwbench.errors import StageError
from hwbench.kernels import build, graph, lower, packed_int8
from hwbench.kernels.problem import RowLists

RNG = np.random.default_rng(5)
SCALE = 0.02
HOST = build.machine()


def _has_vnni() -> bool:
    from tvm.target import codegen

    return HOST.lanes == 16 and bool(codegen.target_has_features("avx512vnni", HOST.target))


needs_vnni = pytest.mark.skipif(not _has_vnni(), reason="this processor has no AVX-512 VNNI")


class Net:
    """An ONNX file in the making: every value stands between QuantizeLinear and its opposite."""

    def __init__(self, shape: Sequence[int], zero: int = 120) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.kept: dict[str, np.ndarray] = {}
        self.shape = shape
        self.last = self.coded("x", 0.03, zero)

    def coded(self, name: str, scale: float, zero: int) -> str:
        """Round a value to 8 bits; return its new name."""
        s, z, q, d = (f"{name}_{what}" for what in "szqd")
        self.kept |= {s: np.array(scale, np.float32), z: np.array(zero, np.uint8)}
        self.nodes.append(helper.make_node("QuantizeLinear", [name, s, z], [q]))
        self.nodes.append(helper.make_node("DequantizeLinear", [q, s, z], [d]))
        return d

    def conv(self, x: str, weights: np.ndarray, zero: int = 0, **given: Any) -> str:
        """Add a convolution with a scale per output and a bias; return its name in 8 bits."""
        n, rows = f"c{len(self.nodes)}", len(weights)
        scales = RNG.uniform(0.001, 0.002, rows).astype(np.float32)
        self.kept |= {f"{n}_w": weights, f"{n}_ws": scales, f"{n}_wz": np.zeros(rows, np.int8)}
        names = [f"{n}_w", f"{n}_ws", f"{n}_wz"]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [f"{n}_f"], axis=0))
        self.kept[f"{n}_b"] = RNG.standard_normal(rows).astype(np.float32)
        self.nodes.append(helper.make_node("Conv", [x, f"{n}_f", f"{n}_b"], [n], **given))
        return self.coded(n, SCALE, zero)

    def save(self, path: Path, last: str, kind: int = onnx.TensorProto.FLOAT) -> None:
        """Write the file."""
        inside = [numpy_helper.from_array(value, name) for name, value in self.kept.items()]
        x = helper.make_tensor_value_info("x", 1, ["n", *self.shape])
        y = helper.make_tensor_value_info("y", kind, None)
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        document = helper.make_graph(self.nodes, "g", [x], [y], inside)
        made = helper.make_model(
            document, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        )
        onnx.save(made, str(path))


def _weights(rows: int, channels: int, size: int, zeros: float) -> np.ndarray:
    """Return weights with so many blocks of four input channels at zero."""
    full = RNG.integers(-127, 128, (rows, -(-channels // 4), 4, size, size))
    kept = RNG.random((rows, full.shape[1], 1, size, size)) >= zeros
    blocks = (full * kept).astype(np.int8)
    return np.ascontiguousarray(blocks.reshape(rows, -1, size, size)[:, :channels])


def _differing(net: Net, last: str, folder: Path, batch: int = 1, threads: int = 1) -> np.ndarray:
    """Return how many steps of the last rounding our answer is from ONNX Runtime's."""
    net.save(folder / "m.onnx", last)
    x = RNG.standard_normal((batch, *net.shape)).astype(np.float32)
    expected = ort.InferenceSession(str(folder / "m.onnx")).run(None, {"x": x})[0]
    made = build.machine(threads=threads)
    found = lower.lower(graph.read(folder / "m.onnx", batch), made, lambda p: RowLists(4, 64))
    assert all(row.config == "int8 1x4" for row in found.layers)
    library = tvm.compile(build.prepare(found.module, None, made), made.target)
    machine = tvm.relax.VirtualMachine(library, tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(x)).numpy()
    assert np.abs(expected).max() > 50 * SCALE  # not a test of zeros
    steps: np.ndarray = np.abs(got - expected) / SCALE
    return steps


@needs_vnni
@pytest.mark.parametrize(
    ("channels", "rows", "size", "window", "given", "zeros", "batch"),
    [
        (16, 16, 16, 3, {"pads": [1, 1, 1, 1]}, 0.9, 1),  # lane-blocked
        (8, 12, 16, 3, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 0.5, 2),
        (3, 8, 32, 7, {"pads": [3, 3, 3, 3], "strides": [2, 2]}, 0.0, 1),
        (10, 7, 7, 3, {"pads": [1, 1, 1, 1]}, 0.7, 2),  # planar, nothing divisible
        (6, 9, 9, 3, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 0.7, 1),  # phases
        (64, 32, 7, 1, {}, 0.9, 1),
        (20, 5, 1, 1, {}, 0.5, 3),
        (8, 8, 12, 3, {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, 0.5, 1),
        (10, 10, 8, 3, {"pads": [1, 1, 1, 1], "group": 10}, 0.0, 1),  # depthwise
        (12, 6, 8, 3, {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 3}, 0.0, 2),
    ],
)
def test_a_convolution_in_8_bits(
    channels: int,
    rows: int,
    size: int,
    window: int,
    given: dict[str, Any],
    zeros: float,
    batch: int,
    tmp_path: Path,
) -> None:
    net = Net((channels, size, size))
    weights = _weights(rows, channels // given.get("group", 1), window, zeros)
    last = net.conv(net.last, weights, 7, **given)
    steps = _differing(net, last, tmp_path, batch)
    assert steps.max() < 1.01  # float32 may round a tie the other way
    assert (steps > 0.01).mean() < 0.01


@needs_vnni
@pytest.mark.parametrize("size", [16, 14, 7])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_residual_block_with_pooling(size: int, threads: int, tmp_path: Path) -> None:
    net = Net((3, 2 * size, 2 * size))
    around: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    stem = net.conv(net.last, _weights(16, 3, 3, 0.0), **around)
    net.nodes.append(helper.make_node(
        "MaxPool", [stem], ["pool"], kernel_shape=[3, 3], strides=[2, 2], **around,
    ))  # fmt: skip
    pooled = net.coded("pool", SCALE, 0)
    inner = net.conv(pooled, _weights(16, 16, 3, 0.8), **around)
    outer = net.conv(inner, _weights(16, 16, 3, 0.8), 130, **around)
    net.nodes.append(helper.make_node("Add", [outer, pooled], ["sum"]))
    last = net.coded("sum", SCALE, 0)
    steps = _differing(net, last, tmp_path, 2, threads)
    assert steps.max() < 2.01  # a byte that differs before the last layer may cost one step more
    assert (steps > 0.01).mean() < 0.02


def test_blocks_of_zeros_are_not_stored() -> None:
    weights = np.zeros((2, 6, 1, 1), np.int8)
    weights[1, 5] = -3
    starts, offsets, values = packed_int8.encode(weights, 2, np.array([0, 100]))
    assert starts.tolist() == [0, 0, 1]
    assert offsets.tolist() == [100]
    assert values.view(np.int8).tolist() == [0, -3, 0, 0]


def test_other_processors_are_refused_by_name(tmp_path: Path) -> None:
    net = Net((4, 8, 8))
    net.save(tmp_path / "m.onnx", net.conv(net.last, _weights(4, 4, 1, 0.0)))
    read = graph.read(tmp_path / "m.onnx", 1)
    for mcpu, system in (
        ("haswell", ""),
        ("skylake-avx512", ""),
        ("cortex-a76", "aarch64-linux-gnu"),
    ):
        with pytest.raises(StageError, match=mcpu) as caught:
            lower.lower(read, build.machine(mcpu, system), lambda p: RowLists(4, 64))
        assert "onnxruntime" in caught.value.mend


def test_an_output_in_8_bits_is_refused(tmp_path: Path) -> None:
    net = Net((4, 8, 8))
    net.save(tmp_path / "m.onnx", "x_q", onnx.TensorProto.UINT8)
    with pytest.raises(StageError, match="in 8 bits"):
        graph.read(tmp_path / "m.onnx", 1)
