"""From an ONNX file to the JSON graph and safetensors of the torch backend: its host half.

ONNX Runtime folds what is constant once the batch is fixed (shapes, reshapes, norms), so that
only operators that compute are left. Not a plug-in.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    import onnx

# Inputs that are settings: constants here, plain numbers in the graph. By place.
_SETTINGS: Mapping[str, Mapping[int, str]] = {
    "Reshape": {1: "shape"},
    "Expand": {1: "shape"},
    "Squeeze": {1: "axes"},
    "Unsqueeze": {1: "axes"},
    "ReduceMean": {1: "axes"},
    "ReduceSum": {1: "axes"},
    "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"},
    "Split": {1: "split"},
    "Pad": {1: "pads", 2: "value"},
    "Clip": {1: "low", 2: "high"},
}
# Attributes that say nothing about the result of an inference.
_IDLE = frozenset(
    ("auto_pad", "momentum", "training_mode", "noop_with_empty_axes", "storage_order",
     "stash_type", "saturate", "output_dtype", "precision", "block_size")
)  # fmt: skip
_DROPPED: Mapping[str, tuple[str, ...]] = {"Conv": ("kernel_shape",)}


def write(source: Path, batch: int, folder: Path, names: tuple[str, str]) -> None:
    """Write the graph and the weights of an ONNX file for a fixed batch, by these two names.

    Raises `StageError` for an operator or a form of it that the torch backend has not.
    """
    from safetensors.numpy import save_file

    document = folded(source, batch)
    graph, arrays = translate(document)
    (folder / names[0]).write_text(json.dumps(graph))
    save_file(arrays, str(folder / names[1]))


def folded(source: Path, batch: int) -> onnx.ModelProto:
    """Return the model at this batch, with what is constant folded by ONNX Runtime.

    Raises `StageError` when ONNX Runtime cannot load it.
    """
    import onnx
    import onnxruntime as ort

    from hwbench.backends._ort_gpu import translated

    document = onnx.load(str(source))
    for value in document.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del document.graph.value_info[:]
    with tempfile.TemporaryDirectory() as home, translated("compile"):
        path = Path(home) / "folded.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        ort.InferenceSession(
            document.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(str(path))


def translate(document: onnx.ModelProto) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the graph as JSON data and the weights it names."""
    from onnx import numpy_helper

    constants = {i.name: numpy_helper.to_array(i) for i in document.graph.initializer}
    nodes = []
    for node in document.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(node)
            continue
        nodes.append(_node(node, constants))
    used = {name for node in nodes for name in node["in"]}
    outputs = [o.name for o in document.graph.output]
    arrays = {n: _contiguous(a) for n, a in constants.items() if n in used or n in outputs}
    inputs = [i.name for i in document.graph.input if i.name not in constants]
    shapes = [_shape(i) for i in document.graph.input if i.name in inputs]
    graph = {"inputs": inputs, "outputs": outputs, "nodes": nodes, "shapes": shapes}
    return {"format": 1, **graph}, arrays


def _shape(value: onnx.ValueInfoProto) -> list[Any]:
    import onnx

    tensor = value.type.tensor_type
    name = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return [[d.dim_value for d in tensor.shape.dim], name]


def _node(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> dict[str, Any]:
    import onnx

    from hwbench.backends._torch_net import OPERATORS

    kind = node.op_type
    if kind not in OPERATORS or node.domain not in ("", "ai.onnx"):
        raise StageError(
            "compile",
            f"the torch backend has no operator {kind}",
            where=node.name,
            expected=f"one of {', '.join(OPERATORS)}",
        )
    settings = {
        a.name: _plain(onnx.helper.get_attribute_value(a))
        for a in node.attribute
        if a.name not in _IDLE and a.name not in _DROPPED.get(kind, ())
    }
    places = _SETTINGS.get(kind, {})
    operands: list[str | None] = []
    for place, name in enumerate(node.input):
        if place not in places:
            operands.append(name or None)
        elif name:
            settings[places[place]] = _setting(node, name, constants)
    while operands and operands[-1] is None:
        operands.pop()
    _check_padding(node)
    if kind == "Gather" and node.input[1] in constants and not constants[node.input[1]].ndim:
        kind, settings["index"] = "GatherAt", int(constants[node.input[1]])
        operands.pop()
    if kind == "Split" and "split" not in settings:
        settings.setdefault("num_outputs", len(node.output))
    return {"op": kind, "in": operands, "out": list(node.output), "with": settings}


def _check_padding(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "auto_pad" and attribute.s not in (b"", b"NOTSET"):
            what = f"{node.op_type} with auto_pad {attribute.s.decode()} is not offered"
            raise StageError("compile", what, where=node.name, expected="explicit pads")


def _setting(node: onnx.NodeProto, name: str, constants: Mapping[str, np.ndarray]) -> Any:
    if name not in constants:
        raise StageError(
            "compile",
            f"{node.op_type}: its input {name!r} is only known when it runs",
            where=node.name,
            expected="shapes that follow from the input's",
        )
    return constants[name].tolist()


def _constant(node: onnx.NodeProto) -> np.ndarray:
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "value":
            found: np.ndarray = numpy_helper.to_array(attribute.t)
            return found
    raise StageError("compile", "a constant of an unknown form", where=node.name)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, tuple | list) else value


def _contiguous(array: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(array).reshape(array.shape)
