"""Small ONNX files, a target and artifacts for contract tests."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwbench.backends import DOUBLE, named
from hwbench.compile import compile_model
from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressionSpec,
    Counts,
    ExportSpec,
    Layer,
    MeasureSpec,
    OnnxFile,
    OnnxModel,
    PluginSpec,
    Power,
    TargetProfile,
    TrainSpec,
    WorkloadSpec,
    file_digest,
)

SHAPE = (3, 8, 8)
"""One input of the small files, without the batch."""
QUICK = MeasureSpec(
    generations=2,
    looks=(2, 4),
    half_width=1e9,  # a test must not repeat a session because the machine was busy
    visit_seconds=0.001,
    max_calls=8,
    warmup_seconds=0.2,
    memory_runs=2,
    energy_seconds=0.01,
    timeout=30.0,
)
"""How to measure in seconds; nothing that comes of it is worth quoting."""

TARGET = TargetProfile(
    name="here",
    title="This machine",
    soc="",
    isa=platform.machine(),
    cores=2,
    ram_bytes=0,
    features=(),
    connection=PluginSpec("local"),
    how_to_reach="",
    threads=1,
    affinity=(),
    backends=(DOUBLE,),
    channel_multiple=1,
    power=Power(0.0, 5.0, "a test"),
    meters=(PluginSpec("proxy", {"idle_watts": 0.0, "core_watts": 5.0, "source": "a test"}),),
    throttle_celsius=None,
)
"""This machine."""


def identity(path: Path) -> OnnxModel:
    """Write a model that copies its input; return its record."""
    return _save(path, [helper.make_node("Identity", ["x"], ["y"])], [], SHAPE)


def network(path: Path, seed: int = 0) -> OnnxModel:
    """Write convolutions of every kind that kernels treat differently, and a linear layer.

    Its input ``x`` is (batch, 3, 8, 8), its output (batch, 5), both float32. Returns its record.
    """
    rng = np.random.default_rng(seed)
    weights = []

    def weight(name: str, *shape: int) -> str:
        data = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights.append(numpy_helper.from_array(data, name))
        return name

    def conv(x: str, y: str, shape: tuple[int, ...], *, stride: int = 1, groups: int = 1) -> Any:
        k = shape[-1]
        return helper.make_node(
            "Conv",
            [x, weight(f"{y}.w", *shape), weight(f"{y}.b", shape[0])],
            [y],
            kernel_shape=[k, k],
            strides=[stride, stride],
            pads=[k // 2] * 4,
            group=groups,
        )

    nodes = [
        conv("x", "stem", (8, 3, 3, 3)),
        helper.make_node("Relu", ["stem"], ["stem.r"]),
        conv("stem.r", "depth", (8, 1, 3, 3), groups=8),
        conv("depth", "odd", (7, 8, 3, 3), stride=2),
        conv("stem.r", "short", (7, 8, 1, 1), stride=2),
        helper.make_node("Add", ["odd", "short"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["sum.r"]),
        helper.make_node("GlobalAveragePool", ["sum.r"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node(
            "Gemm", ["flat", weight("fc.w", 5, 7), weight("fc.b", 5)], ["y"], transB=1
        ),
    ]
    return _save(path, nodes, weights, (5,))


def perceptron(path: Path, seed: int = 0) -> OnnxModel:
    """Write two linear layers with a ReLU between them: ``Flatten``, ``Gemm``, ``Relu``, ``Gemm``.

    Its input ``x`` is (batch, 3, 8, 8), its output (batch, 5), both float32. Returns its record.
    """
    rng = np.random.default_rng(seed)
    sizes = {"a.w": (16, 192), "a.b": (16,), "b.w": (5, 16), "b.b": (5,)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 8, name)
        for name, shape in sizes.items()
    ]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "a.w", "a.b"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "b.w", "b.b"], ["y"], transB=1),
    ]
    return _save(path, nodes, weights, (5,))


def candidate(
    kind: str, options: Mapping[str, Any] | None = None, *, batch: int = 1, label: int = 0
) -> Candidate:
    """Return a candidate of a backend; ``label`` tells one from another."""
    spec = CompressionSpec(WorkloadSpec("toy"), TrainSpec(), seed=label)
    return Candidate(ExportSpec(spec), named(PluginSpec(kind, options or {})), TARGET.name, batch)


def compiled(model: OnnxModel, of: Candidate, folder: Path) -> CompiledModel:
    """Return the artifact of a candidate."""
    return compile_model(of, model, TARGET, folder)


def inputs(path: Path, samples: int = 5, seed: int = 0) -> Path:
    """Write random inputs as ``.npy``."""
    data = np.random.default_rng(seed).standard_normal((samples, *SHAPE))
    np.save(path, data.astype(np.float32))
    return path


def at(model: OnnxModel, path: Path) -> OnnxModel:
    """Return a model whose file lies elsewhere."""
    return dataclasses.replace(model, file=dataclasses.replace(model.file, path=path))


def spec(**changes: Any) -> MeasureSpec:
    """Return the quick spec of tests with some changes."""
    return dataclasses.replace(QUICK, **changes)


def _save(
    path: Path, nodes: Sequence[Any], weights: Sequence[Any], out: Sequence[int]
) -> OnnxModel:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *out])
    graph = helper.make_graph(list(nodes), "net", [x], [y], list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    layers = tuple(
        Layer(w.name, "Conv", tuple(w.dims), 1, 1, 1, 1) for w in weights if w.name.endswith(".w")
    )
    export = candidate(DOUBLE.kind).export
    file = OnnxFile(path, file_digest(path), "x", SHAPE, "float32", ("y",), 20)
    return OnnxModel(export, file, Counts(layers, 1, 1, 1, 0), 0.0)
