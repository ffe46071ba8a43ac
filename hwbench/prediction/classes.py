"""What a network does, by class of operator: the features that the fallback model is fitted on.

The classes are those that runtimes have different kernels for: 1x1, 3x3 with stride 1 (Winograd),
other, depthwise and grouped convolutions, linear layers; then elements that go in and out of
them, elements of everything else, and bytes of weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.records import OnnxModel

if TYPE_CHECKING:
    from hwbench.kernels.graph import Graph, Step

MACS = ("pointwise", "winograd", "spatial", "depthwise", "grouped", "linear")
"""Classes that count multiply-adds."""
CLASSES = (*MACS, "moved", "elementwise", "weight_bytes")
_FREE = ("Reshape", "Flatten", "Identity", "Dropout", "Squeeze", "Unsqueeze", "Split")
_WINOGRAD_FROM = 8
"""Pixels of height from which runtimes use Winograd's algorithm."""


def convolution_class(groups: int, outputs: int, kernel: tuple[int, int], stride: int,
                      height: int) -> str:  # fmt: skip
    """Return the class of a convolution over an image of so many rows."""
    if groups > 1:
        return "depthwise" if groups == outputs else "grouped"
    if kernel == (1, 1):
        return "pointwise"
    if kernel == (3, 3) and stride == 1 and height >= _WINOGRAD_FROM:
        return "winograd"
    return "spatial"


def by_layer(model: OnnxModel) -> Mapping[str, Mapping[str, float]]:
    """Return the classes of every step of an ONNX file at batch 1, by the layer's name.

    Raises `StageError` when a shape stays unknown.
    """
    return steps(Path(model.path))


def steps(path: Path) -> dict[str, Mapping[str, float]]:
    """Return the classes of every step of an ONNX file at batch 1."""
    from hwbench.kernels import graph

    network = graph.read(path, 1)
    layers: dict[str, Mapping[str, float]] = {}
    for number, step in enumerate(network.steps):
        layers[step.layer if step.layer not in layers else f"{step.layer}#{number}"] = _step(
            step, network
        )
    return layers


def total(layers: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the sums over the layers, by class."""
    sums: Counter[str] = Counter()
    for layer in layers.values():
        sums.update(layer)
    return {name: float(sums[name]) for name in CLASSES}


def _step(step: Step, graph: Graph) -> dict[str, float]:
    dynamic = [name for name in step.inputs if name not in graph.constants]
    moved = sum(_elements(graph, name) for name in dynamic) + _elements(graph, step.output)
    if step.kind == "conv" and step.weights is not None:
        name, macs = _convolution(step, graph)
    elif step.kind == "linear" and step.weights is not None:
        # One row is bound by its weights; many rows are a matrix product, as a 1x1 layer is.
        rows = _elements(graph, step.output) // max(step.weights.shape[0], 1)
        name = "linear" if rows <= 1 else "pointwise"
        macs = rows * step.weights.size
    elif step.node.op_type in ("MatMul", "Gemm"):
        left = graph.shapes[step.node.input[0]]
        name, macs = "pointwise", _elements(graph, step.output) * left[-1]
    else:
        return {"elementwise": 0 if step.node.op_type in _FREE else moved}
    size = 0 if step.weights is None else 4 * step.weights.size
    # A linear layer's weights are read once and its class pays for that already.
    return {name: macs, "moved": moved, "weight_bytes": 0 if name == "linear" else size}


def _convolution(step: Step, graph: Graph) -> tuple[str, int]:
    assert step.weights is not None
    outputs, height = step.weights.shape[0], graph.shapes[step.inputs[0]][2]
    kernel = (step.weights.shape[2], step.weights.shape[3])
    name = convolution_class(step.groups, outputs, kernel, step.window.stride[0], height)
    pixels = math.prod(graph.shapes[step.output][2:])
    return name, step.weights.size * pixels


def _elements(graph: Graph, name: str) -> int:
    return math.prod(graph.shapes[name])
